"""Every system as its command runs it: a run that was killed twice equals one that was not; two ranks agree."""

import contextlib
import importlib
import io
import os
import random
import signal
import socket
from pathlib import Path

import pytest
import torch
from untrained import SYSTEMS, untrained

from engine.checkpoint import read_checkpoint
from families import editor_class
from tests.same import equal, kill_in_step, kill_in_write, run_child, start_child, wait_for

pytestmark = pytest.mark.slow  # whole runs

STEPS, LAST = 6, "checkpoints/step_0000006.pt"
TRAIN = (
    f"train: {{total_steps: {STEPS}, batch_size: 4, device: cpu, log_every: 4, save_every: 2, sample_every: 0, "
    "validate_every: 0, sample_size: 4, val_images: 8}\n"
)
MORE = {  # phases and lazy terms that six steps reach
    # The linear path is fitted before the first step; it takes longer than all six.
    "aae_cgan": ["train.autoencode_steps=2", "train.gan_steps=2", "loss.guide_steps=1", "model.linear=none"],
    "flow": ["train.alarm_every=3"],
    "gcgan": ["loss.geometry_steps=3"],
    "interface_gan": ["loss.r1_every=2", "loss.path_every=3"],
}
UPSTREAM = {"a2f_sharp": "a2f_rough", "a2f_face": "a2f_sharp"}


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that the later stages of a2f start from."""
    folder = tmp_path_factory.mktemp("upstream")
    return {name: untrained(name, folder / name) for name in UPSTREAM.values()}


class System:
    """The training command of a system, with a small configuration."""

    def __init__(self, name: str, folder: Path, upstream: dict[str, Path]) -> None:
        self.family, text = SYSTEMS[name]
        self.folder, self.config = folder, folder / "small.yaml"
        self.config.write_text(text + TRAIN)
        self.more = list(MORE.get(name, []))
        if name in UPSTREAM:
            self.more.append(f"upstream.run={upstream[UPSTREAM[name]]}")
        methods = editor_class(self.family).method_class
        self.method = methods[name.removeprefix("a2f_")] if isinstance(methods, dict) else methods

    def train(self, run: str, *overrides: str) -> None:
        main = importlib.import_module(f"{self.family}.train").main
        with contextlib.redirect_stdout(io.StringIO()):
            main(["--config", str(self.config), "--run-dir", str(self.folder / run), *self.more, *overrides])

    def checkpoint(self, run: str) -> dict:
        return read_checkpoint(self.folder / run / LAST)


@pytest.fixture(params=list(SYSTEMS))
def system(request: pytest.FixtureRequest, tmp_path: Path, upstream: dict[str, Path]) -> System:
    return System(request.param, tmp_path, upstream)


def test_a_run_that_was_killed_twice_equals_one_that_was_not(system: System) -> None:
    step = random.randrange(2, STEPS)
    system.train("straight")
    killed = run_child(lambda: (kill_in_step(system.method, step), system.train("killed")), system.folder / "1.txt")
    assert killed == -signal.SIGKILL, (system.folder / "1.txt").read_text()
    killed = run_child(lambda: (kill_in_write("step_0000006", 3000), system.train("killed")), system.folder / "2.txt")
    assert killed == -signal.SIGKILL, (system.folder / "2.txt").read_text()
    assert not (system.folder / "killed" / LAST).exists()
    system.train("killed")
    straight, killed = system.checkpoint("straight"), system.checkpoint("killed")
    for key in ("step", "method", "optimizers", "pending"):
        assert equal(straight[key], killed[key]), f"{key} differs; killed in step {step}"


def weights_of_a_rank(system: System, rank: int, port: int) -> None:
    """Train three steps as one of two ranks, and save this rank's parameters."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    seen, step = [], system.method.step

    def remember(self: torch.nn.Module, batch: dict, number: int) -> dict:
        seen.append((self, batch["index"].tolist()))
        return step(self, batch, number)

    system.method.step = remember
    system.train("two", "train.stop_at=3")
    method, rows = seen[-1]
    torch.save({"rows": rows, "weights": dict(method.named_parameters())}, system.folder / f"{rank}.pt")


def test_two_ranks_have_equal_weights(system: System) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [
        start_child(lambda rank=rank: weights_of_a_rank(system, rank, port), system.folder / f"rank{rank}.txt")
        for rank in range(2)
    ]
    codes = [wait_for(child) for child in children]
    assert codes == [0, 0], "\n".join((system.folder / f"rank{rank}.txt").read_text() for rank in range(2))
    one, two = (torch.load(system.folder / f"{rank}.pt", weights_only=False) for rank in range(2))
    assert set(one["rows"]).isdisjoint(two["rows"])  # each rank has its own half of the batch
    assert equal(one["weights"], two["weights"])

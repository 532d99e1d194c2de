"""Runs of a toy method: resume, kill, signals, ranks, user errors."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import toy
from torch.utils.tensorboard import SummaryWriter
from toy import ToyConfig, ToySet

import engine
from engine.checkpoint import read_checkpoint, save_checkpoint
from engine.config import load_config
from tests.same import equal, kill_in_step, kill_in_write, run_child, start_child, wait_for

TOY = Path(__file__).with_name("toy.py")
CADENCES = "train: {total_steps: 40, log_every: 7, save_every: 10, sample_every: 20, validate_every: 20, lr_warmup: 5}"
ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TOY.parent.parent)}
ENV.pop("WORLD_SIZE", None)


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(CADENCES)
    return path


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


def arguments(config: Path, name: str, *overrides: str) -> list[str]:
    return ["--config", str(config), "--run-dir", str(config.parent / name), *overrides]


def launch(config: Path, name: str, *overrides: str) -> Result:
    """One run of the toy method in this process. It saves the two seconds of importing torch."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            toy.main(arguments(config, name, *overrides))
        except SystemExit as stop:
            code = stop.code
    return Result(code, out.getvalue(), err.getvalue())


def launch_process(program: list[str], config: Path, name: str, *overrides: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *program, *arguments(config, name, *overrides)]
    return subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=240)


def final(config: Path, name: str, step: int = 40) -> dict:
    return read_checkpoint(config.parent / name / "checkpoints" / f"step_{step:07d}.pt")


def same_run(config: Path, a: str, b: str) -> bool:
    one, two = final(config, a), final(config, b)
    one["config"], two["config"] = {}, {}  # intervals may differ
    return equal(one, two)


def log(config: Path, name: str) -> list[dict]:
    rows = [json.loads(line) for line in (config.parent / name / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith("_per_s")} for row in rows]


@pytest.fixture
def straight(config) -> Path:
    assert launch(config, "straight").returncode == 0
    return config


def test_the_first_line_names_device_and_precision(config):
    lines = launch(config, "short", "train.total_steps=1", "train.precision=bf16").stdout.splitlines()
    assert lines[0] == f"device cpu, {torch.get_num_threads()} threads, networks in bf16"


def test_a_resumed_run_equals_an_uninterrupted_run(straight):
    first = launch(straight, "resumed", "train.stop_at=23")
    assert first.returncode == 0 and final(straight, "resumed", 23)["step"] == 23
    assert launch(straight, "resumed").returncode == 0
    assert same_run(straight, "straight", "resumed")
    assert log(straight, "straight") == log(straight, "resumed")


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [lambda: kill_in_step(toy.Toy, 17), lambda: kill_in_write("step_0000020", 1000)],
    ids=["in a step", "inside a checkpoint write"],
)
def test_a_killed_run_resumes_to_the_same_weights(straight, fault):
    killed = run_child(lambda: (fault(), toy.main(arguments(straight, "killed"))))
    assert killed == -signal.SIGKILL
    assert not (straight.parent / "killed" / "checkpoints" / "step_0000020.pt").exists()
    assert launch(straight, "killed").returncode == 0
    assert same_run(straight, "straight", "killed") and log(straight, "straight") == log(straight, "killed")


@pytest.mark.slow
def test_sigterm_saves_a_checkpoint_and_exits_with_143(config):
    output = config.parent / "output.txt"
    pid = start_child(lambda: toy.main(arguments(config, "r", "train.total_steps=1000000")), output)
    deadline = time.time() + 60
    while not list((config.parent / "r").glob("checkpoints/*.pt")) and time.time() < deadline:
        time.sleep(0.05)
    second = launch(config, "r", "train.total_steps=1000000")
    assert second.returncode == 2 and f"is being trained by process {pid}" in second.stderr
    os.kill(pid, signal.SIGTERM)
    assert wait_for(pid) == 143
    assert "stopped by a signal" in output.read_text()


def test_cpu_seconds_are_summed_over_launches(straight):
    path = straight.parent / "straight" / "environment.json"
    first = json.loads(path.read_text())[-1]["cpu_seconds"]
    assert first > 0
    assert launch(straight, "straight", "train.total_steps=41").returncode == 0
    launches = json.loads(path.read_text())
    assert len(launches) == 2 and launches[0]["cpu_seconds"] == first
    assert launches[1]["cpu_seconds"] >= 2 * first  # process_time of this process only grows


def test_a_changed_key_is_an_error_and_nothing_is_written(straight):
    folder = straight.parent / "straight"
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}
    refused = launch(straight, "straight", "train.lr=0.5", "model.width=9")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "train.lr: was 0.01, is 0.5" in refused.stderr and "model.width: was 3, is 9" in refused.stderr
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}
    longer = launch(straight, "straight", "train.total_steps=60", "train.log_every=3")
    assert longer.returncode == 0 and "learning rate's factor" in longer.stdout
    assert final(straight, "straight", 60)["step"] == 60


def test_resuming_with_other_data_is_an_error(straight, tmp_path):
    path = straight.parent / "straight" / "checkpoints" / "step_0000040.pt"
    state = read_checkpoint(path)
    state["meta"]["image_size"] = 99
    save_checkpoint(path, state)
    refused = launch(straight, "straight", "train.total_steps=50")
    assert refused.returncode == 2 and "image_size differ" in refused.stderr


def test_a_damaged_checkpoint_is_renamed_and_training_continues(straight):
    folder = straight.parent / "straight" / "checkpoints"
    (folder / "step_0000040.pt").write_bytes(b"nonsense")
    done = launch(straight, "straight")
    assert done.returncode == 0 and "was renamed to" in done.stdout
    assert (folder / "step_0000040.pt.damaged").exists() and final(straight, "straight")["step"] == 40


def test_a_non_finite_loss_stops_the_run(config):
    stopped = launch(config, "nan", "loss.weight=1e38", "train.lr=1e30")
    assert stopped.returncode == 2 and "Traceback" not in stopped.stderr
    assert "is inf" in stopped.stderr or "is nan" in stopped.stderr


def test_init_from_starts_from_the_named_weights(straight):
    run = straight.parent / "straight"
    done = launch(straight, "tuned", f"train.init_from=['{run}:net']", "train.total_steps=1", "train.lr=1e-12")
    assert done.returncode == 0, done.stderr
    best = read_checkpoint(run / "checkpoints" / "best.pt")["method"]
    tuned = final(straight, "tuned", 1)["method"]
    assert torch.allclose(tuned["net.1.weight"], best["net.1.weight"]) and tuned["warm"] == 0
    wrong = launch(straight, "wrong", f"train.init_from=['{run}:nothing']")
    assert wrong.returncode == 2 and "the prefix 'nothing'" in wrong.stderr


@pytest.mark.slow
def test_two_ranks_have_equal_weights_at_the_end(config):
    dump = config.parent / "dump.py"
    dump.write_text(
        f"import sys; sys.path.insert(0, {str(TOY.parent)!r})\n"
        "import torch, toy, engine, os\n"
        "with engine.start(toy.ToyConfig) as run:\n"
        "    faces = toy.ToySet(4); m = toy.Toy(run.cfg, {'image_size': 4})\n"
        "    engine.fit(run, m, faces, faces)\n"
        "    torch.save(m.state_dict(), run.dir / f'rank{run.rank}.pt')\n"
    )
    program = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(dump)]
    done = launch_process(program, config, "two", "model.dropout=0")
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (torch.load(config.parent / "two" / f"rank{r}.pt") for r in (0, 1))
    differ = [k for k in one if not torch.equal(one[k], two[k]) and "running" not in k]
    assert not differ
    assert final(config, "two")["step"] == 40


def test_batch_size_must_be_divisible_by_the_number_of_ranks(config, monkeypatch):
    monkeypatch.setattr(engine.ranks, "start_ranks", lambda device: (0, 2, torch.device("cpu")))
    odd = launch(config, "odd", "train.batch_size=3")
    assert odd.returncode == 2 and "not divisible by 2 processes" in odd.stderr


def test_the_loop_takes_less_than_half_a_millisecond_per_step(tmp_path):
    class Nothing(engine.Method):
        def __init__(self, cfg):
            super().__init__(cfg, {})
            self.w = torch.nn.Parameter(torch.zeros(1))

        def step(self, batch, step):
            return {"loss": self.w.detach()[0]}

    steps = 400
    quiet = [f"train.total_steps={steps}", "train.sample_every=0", f"train.save_every={steps}", "train.batch_size=1"]
    cfg = load_config(ToyConfig, None, quiet)
    run = engine.Run(cfg, tmp_path, torch.device("cpu"))
    (tmp_path / "config.yaml").write_text("")
    faces = ToySet(4)
    batches = faces.batches(1)
    start = time.process_time()  # CPU time: other processes do not disturb it
    for _ in range(steps):
        next(batches)
    data_time = time.process_time() - start
    method = Nothing(cfg)
    SummaryWriter(str(tmp_path))  # its first use imports for a second
    start = time.process_time()
    engine.fit(run, method, faces)
    assert (time.process_time() - start - data_time) / steps < 0.5e-3

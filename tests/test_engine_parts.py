"""The engine's small parts: schedule, EMA, precision, files, checkpoints, grids, method."""

import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from toy import Toy, ToyConfig

import engine
from engine import EMA, Grid, Method, fp32, frozen
from engine.checkpoint import checkpoints, intact, latest_checkpoint, read_checkpoint, save_checkpoint, to_plain
from engine.errors import UserError
from engine.files import atomic_dir, atomic_text, atomic_write, lock
from engine.grids import grid_image, save_animation, save_image, to_uint8
from engine.metric_logger import MetricBuffer, truncate_log
from engine.precision import seed_everything, seed_of, uses_bf16


def test_lr_schedule():
    assert [engine.lr(s, 100, warmup=4) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert engine.lr(99, 100, floor=0.1) == pytest.approx(0.1)
    assert engine.lr(50, 101, decay="linear") == pytest.approx(0.5)
    assert engine.lr(50, 101, decay="cosine") == pytest.approx(0.5)
    assert engine.lr(49, 100, hold=0.5, decay="linear") == 1.0 and engine.lr(80, 100, hold=0.5, decay="linear") < 0.5
    assert engine.lr(99, 100, decay="none") == 1.0


def test_ema_updates_and_stays_in_evaluation_mode():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    parent = nn.Module()
    parent.ema = EMA(net)
    parent.train()
    assert not parent.ema.module.training
    before = parent.ema.module[0].weight.clone()
    with torch.no_grad():
        net[0].weight += 1
        net[1].num_batches_tracked += 7
    parent.ema.update(net, 0.75)
    assert torch.allclose(parent.ema.module[0].weight, before + 0.25)
    assert parent.ema.module[1].num_batches_tracked == 7
    parent.ema.reset(net)
    assert torch.equal(parent.ema.module[0].weight, net[0].weight)
    assert not any(p.requires_grad for p in parent.ema.parameters())


@pytest.mark.parametrize(("amx", "avx512"), [(False, False), (True, False), (False, True)])
def test_hardware_precision_is_bf16_where_the_cpu_multiplies_it(monkeypatch, amx, avx512):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    cpu = torch.device("cpu")
    assert uses_bf16("hardware", cpu) == (amx or avx512)
    assert uses_bf16("bf16", cpu) and not uses_bf16("fp32", cpu) and not uses_bf16("auto", cpu)
    assert uses_bf16("auto", torch.device("cuda")) and not uses_bf16("fp32", torch.device("cuda"))


def test_fp32_disables_autocast_and_tf32():
    conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = (conv.fp32_precision, matmul.fp32_precision)
    a = torch.randn(8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
        with fp32():
            assert (a @ a).dtype == torch.float32
            assert (conv.fp32_precision, matmul.fp32_precision) == ("ieee", "ieee")
        assert (a @ a).dtype == torch.bfloat16
    assert (conv.fp32_precision, matmul.fp32_precision) == before


def test_frozen_restores_requires_grad():
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    net[1].requires_grad_(False)
    with frozen(net):
        assert not any(p.requires_grad for p in net.parameters())
    assert net[0].weight.requires_grad and not net[1].weight.requires_grad


def test_step_seeds():
    assert seed_of(0, 0, 5) == seed_of(0, 0, 0) + 5 or seed_of(0, 0, 5) < 5
    assert len({seed_of(s, r, 0) for s in range(10) for r in range(10)}) == 100
    seed_everything(3, torch.device("cpu"))
    a = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(a, torch.rand(3))


class TwoNets(Method):
    def __init__(self):
        super().__init__(None, {})
        self.critic, self.generator = nn.Linear(4, 4), nn.Linear(4, 4)
        self.optimizers = {n: engine.adam(getattr(self, n).parameters(), 0.1) for n in ("critic", "generator")}


def test_minimize_updates_one_optimizer_only():
    m = TwoNets()
    before = {n: getattr(m, n).weight.clone() for n in m.optimizers}
    loss = m.critic(m.generator(torch.randn(8, 4))).square().mean()
    norm = m.minimize(loss, "critic")
    assert norm > 0 and not torch.equal(m.critic.weight, before["critic"])
    assert torch.equal(m.generator.weight, before["generator"]) and m.generator.weight.grad is None


def test_minimize_clips_and_returns_the_unclipped_norm():
    m = TwoNets()
    m.optimizers["critic"] = torch.optim.SGD(m.critic.parameters(), lr=1.0)
    before = torch.cat([p.detach().flatten() for p in m.critic.parameters()])
    norm = m.minimize(1e3 * m.critic(torch.ones(1, 4)).sum(), "critic", max_norm=0.5)
    after = torch.cat([p.detach().flatten() for p in m.critic.parameters()])
    assert norm > 100 and (after - before).norm() == pytest.approx(0.5, rel=1e-4)


def test_two_updates_inside_one_autocast_region_see_new_weights():
    m, x = TwoNets(), torch.randn(16, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = []
        for _ in range(3):
            loss = m.critic(x).float().square().mean()
            losses.append(loss.item())
            m.minimize(loss, "critic")
    assert len(set(losses)) == 3, "the autocast cache kept the old bf16 weights"


def test_double_backward_through_minimize():
    m, x = TwoNets(), torch.randn(8, 4, requires_grad=True)
    gradient = torch.autograd.grad(m.critic(x).square().sum(), x, create_graph=True)[0]
    m.minimize((gradient.norm(dim=1) - 1).square().mean(), "critic")
    assert m.critic.weight.grad.abs().sum() > 0


def test_checkpoints_hold_plain_values_only(tmp_path):
    with pytest.raises(TypeError, match="state.a.b"):
        to_plain({"a": {"b": object()}})
    view = torch.zeros(1000)[:2]
    state = to_plain({"x": np.float32(2), "view": view})
    assert state["x"] == 2.0 and state["view"].untyped_storage().nbytes() == 8
    save_checkpoint(tmp_path / "c.pt", {"step": 1, "method": {"w": torch.ones(2)}})
    assert torch.equal(read_checkpoint(tmp_path / "c.pt")["method"]["w"], torch.ones(2))


def test_a_flipped_bit_is_detected(tmp_path):
    path = tmp_path / "step_0000001.pt"
    save_checkpoint(path, {"step": 1, "method": {"w": torch.arange(100.0)}})
    good = path.read_bytes()
    for place in range(0, len(good), 37):
        bad = bytearray(good)
        bad[place] ^= 4
        path.write_bytes(bad)
        assert not intact(path), place
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(UserError, match="is damaged"):
        read_checkpoint(path)


class Evil:
    def __reduce__(self):
        return (exec, ("open('owned', 'w')",))


def test_a_checkpoint_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("engine.checkpoint.to_plain", lambda state: state)
    save_checkpoint(tmp_path / "evil.pt", {"step": 1, "method": Evil()})
    with pytest.raises(UserError, match="holds more than weights"):
        read_checkpoint(tmp_path / "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(tmp_path / "raw.pt")
    assert not (tmp_path / "owned").exists()


def test_the_newest_intact_checkpoint_is_used(tmp_path):
    folder = tmp_path / "checkpoints"
    for step in (5, 10):
        save_checkpoint(folder / f"step_{step:07d}.pt", {"step": step, "method": {}})
    (folder / "step_0000010.pt").write_bytes(b"half")
    messages = []
    assert latest_checkpoint(tmp_path, messages.append).name == "step_0000005.pt"
    assert "step_0000010.pt" in messages[0] and (folder / "step_0000010.pt.damaged").exists()
    assert len(checkpoints(tmp_path)) == 1


def test_a_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"step": 1, "method": {}})
    before = path.read_bytes()
    with pytest.raises(UserError, match="No space left"), atomic_write(path) as file:
        file.write(b"x" * 100)
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_atomic_dir_keeps_the_old_folder_on_error(tmp_path):
    target = tmp_path / "d"
    with atomic_dir(target) as d:
        (d / "meta.json").write_text("1")
    with pytest.raises(ValueError), atomic_dir(target) as d:
        (d / "b").write_text("2")
        raise ValueError
    assert [p.name for p in target.iterdir()] == ["meta.json"] and list(tmp_path.iterdir()) == [target]


def test_a_lock_reports_its_holder(tmp_path):
    with (
        lock(tmp_path / ".lock"),
        pytest.raises(UserError, match="is being trained by process"),
        lock(tmp_path / ".lock", wait=False, message="is being trained"),
    ):
        pass
    with lock(tmp_path / ".lock", wait=False):
        pass


def test_log_rows_are_means_and_non_finite_values_are_errors():
    metric_buffer = MetricBuffer()
    metric_buffer.add(0, {"loss": torch.tensor(1.0)})
    metric_buffer.add(1, {"loss": torch.tensor(3.0), "rare": torch.tensor(5)})
    assert MetricBuffer(metric_buffer.plain(None)).row(None) == metric_buffer.row(None) == {"loss": 2.0, "rare": 5.0}
    metric_buffer.add(7, {"loss": torch.tensor(float("nan"))})
    with pytest.raises(UserError, match=r"step 7: loss is nan.*here\.pt"):
        metric_buffer.row("here.pt")


def test_truncate_log(tmp_path):
    path = tmp_path / "log.jsonl"
    atomic_text(path, "".join(json.dumps({"step": s}) + "\n" for s in (1, 2, 3)) + '{"step": 4, "lo')
    truncate_log(path, 2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_grid_captions_and_pixels():
    images = torch.linspace(-1, 1, 2 * 3 * 1 * 4 * 4).view(2, 3, 1, 4, 4)
    picture = grid_image(Grid(images, ["first", "second"], ["a", "b", "c"]), scale=8)
    plain = np.asarray(grid_image(Grid(images), scale=1))
    assert picture.width > 3 * 34 and picture.height > 2 * 34
    assert plain[0, 0, 0] == 0 and plain[2 * 6 - 3, 3 * 6 - 3, 0] == 255
    x8 = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    assert np.array_equal(to_uint8(x8.float() / 127.5 - 1), x8.numpy())


def test_animations_and_unknown_suffixes(tmp_path):
    from PIL import Image

    frames = torch.rand(5, 3, 16, 16) * 2 - 1
    for name in ("a.webp", "a.gif"):
        with Image.open(save_animation(frames, tmp_path / name, fps=5)) as animation:
            assert animation.n_frames == 5
    with pytest.raises(UserError, match="unknown image format"):
        save_image(Image.new("RGB", (4, 4)), tmp_path / "a.bmp2")


def test_load_rebuilds_a_method_without_data(tmp_path):
    from engine.config import load_config, to_yaml

    cfg = load_config(ToyConfig)
    toy = Toy(cfg, {"image_size": 4})
    atomic_text(tmp_path / "config.yaml", to_yaml(cfg))
    save_checkpoint(
        tmp_path / "checkpoints" / "step_0000003.pt", {"step": 3, "method": toy.state_dict(), "meta": toy.meta}
    )
    loaded = engine.load(tmp_path, ToyConfig, Toy, device="cpu")
    assert not loaded.training and loaded.origin.step == 3 and len(loaded.origin.sha256) == 64
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), toy.state_dict().values(), strict=True))
    with pytest.raises(UserError, match="these steps: 3"):
        engine.load(tmp_path, ToyConfig, Toy, step=4)
    atomic_text(tmp_path / "config.yaml", to_yaml(load_config(ToyConfig, None, ["model.width=5"])))
    with pytest.raises(UserError, match="do not fit"):
        engine.load(tmp_path, ToyConfig, Toy)
    with pytest.raises(UserError, match="not a run directory"):
        engine.load(tmp_path / "nowhere", ToyConfig, Toy)

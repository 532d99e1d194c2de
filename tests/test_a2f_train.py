"""Runs of a2f: resume, two ranks, the chain of stages, diversity checks, sample grids."""

import dataclasses
import shutil

import pytest
import torch
from a2f_toy import ATTRIBUTES, Toys, batch, build, chain, config, meta, run

from a2f.config import CONFIGS
from a2f.gan import SampledMethod
from a2f.monitor import META_KEY, diversity_of, failed_checks, pairs_within, real_diversity
from a2f.train import METHODS
from a2f.upstream import SAME, resolve_upstream
from engine import UserError, load
from engine.method import Grid
from tests.same import equal, of_one_and_of_two_ranks


@pytest.mark.slow
def test_resumed_stages_equal_uninterrupted_ones_and_need_no_upstream_run(tmp_path):
    runs = chain(tmp_path / "a")
    for name in ("rough", "sharp", "face"):
        cfg = config(name)
        before = {"sharp": "rough", "face": "sharp"}.get(name)
        if before:
            cfg = dataclasses.replace(cfg, upstream=dataclasses.replace(cfg.upstream, run=str(runs[before])))
        halves = run(tmp_path / "b" / name, cfg, (3, 0))
        whole = run(runs[name], cfg)
        assert equal(whole["method"], halves["method"]) and equal(whole["optimizers"], halves["optimizers"]), name

    # The frozen stages are the upstream runs' averages, in the run's own state.
    states = {name: load(folder, CONFIGS, METHODS).state_dict() for name, folder in runs.items()}
    for key, value in states["rough"].items():
        if key.startswith("ema_"):
            assert torch.equal(states["sharp"][f"chain.{key.removeprefix('ema_')}"], value)
            assert torch.equal(states["face"][f"chain.{key.removeprefix('ema_')}"], value)
    for key, value in states["sharp"].items():
        if key.startswith("ema_generator"):
            assert torch.equal(states["face"][key.replace("ema_generator", "chain.sharp")], value)

    # With the upstream runs gone the run draws the same faces, and goes on.
    faces = lambda: load(runs["face"], CONFIGS, METHODS).draw(torch.ones(3, 4), torch.ones(3, 12))  # noqa: E731
    expected = faces()
    shutil.rmtree(runs["rough"])
    shutil.rmtree(runs["sharp"])
    assert torch.equal(faces(), expected)
    saved = load(runs["face"], CONFIGS, METHODS).cfg
    longer = dataclasses.replace(saved, train=dataclasses.replace(saved.train, total_steps=8))
    assert run(runs["face"], longer)["step"] == 8
    fresh = dataclasses.replace(longer, train=dataclasses.replace(longer.train, total_steps=9))
    with pytest.raises(UserError, match=r"does not exist, and .* has no checkpoint"):
        run(tmp_path / "new", fresh)


@pytest.mark.slow
def test_every_difference_from_the_upstream_run_is_an_error_with_its_key(tmp_path):
    rough = tmp_path / "rough"
    run(rough, config("rough", total_steps=1))
    good = dataclasses.replace(config("sharp"), upstream=dataclasses.replace(config("sharp").upstream, run=str(rough)))
    filled = resolve_upstream(good)
    assert filled.upstream.step == 1 and len(filled.upstream.sha256) == 64 and filled.rough.latent_dim == 8

    others = {"data.image_size": 64, "data.grayscale": True, "data.crop": 100, "data.split": "stargan",
              "data.sketch": "x",
              "data.dataset": "celeba", "data.eyes": [0.0, 0.0, 1.0, 0.0], "data.seed": 1, "data.prior": "celeba",
              "data.num_train": 7, "data.attributes": ATTRIBUTES[::-1]}  # fmt: skip
    assert set(others) == set(SAME)
    for key, value in others.items():
        data = dataclasses.replace(good.data, **{key.partition(".")[2]: value})
        with pytest.raises(UserError, match=rf"^{key}: .* here, but .* in upstream.run"):
            resolve_upstream(dataclasses.replace(good, data=data))

    def upstream(**change):
        return dataclasses.replace(good, upstream=dataclasses.replace(good.upstream, **change))

    for change, text in (
        ({"run": ""}, "expected the run directory of a rough system"),
        ({"run": str(tmp_path / "no")}, "is not a run directory"),
        ({"sha256": "0" * 64}, "upstream.sha256"),
        ({"step": 5}, "no checkpoint of step 5"),
    ):
        with pytest.raises(UserError, match=text):
            resolve_upstream(upstream(**change))
    face = dataclasses.replace(config("face"), upstream=good.upstream)
    with pytest.raises(UserError, match="is a rough system; expected a sharp system"):
        resolve_upstream(face)


def test_texture_columns_follow_the_attribute_names():
    """Stage 1 sees the same values whatever the order of the data's attributes."""
    names = ["Male", "Blond_Hair", "Smiling", "Black_Hair"]
    method = METHODS["face"](dataclasses.replace(config("face")), meta(names))
    attr = torch.tensor([[1.0, 0.0, 0.0, 1.0]])  # Male, not smiling
    assert [names[k] for k in method.chain.columns] == ["Male", "Smiling"]
    assert method.chain.texture(attr).tolist() == [[1.0, -1.0]]
    assert method.texture(2 * attr - 1).tolist() == [[1.0, -1.0]]


def one_step(rank: int, world: int) -> dict:
    """Stage 1 after a step of plain gradient descent on one batch, whole or split over the ranks.

    The posterior is made narrow, so that what is drawn on each rank does not matter.
    """
    method = build("rough", loss={"kl_warmup": 0.0})
    with torch.no_grad():
        method.encoder.heads.bias[8:] = -100
    parameters = method.optimizers["cvae"].param_groups[0]["params"]
    method.optimizers["cvae"] = torch.optim.SGD(parameters, lr=1e-5)
    rows = batch(8)
    mine = {key: value[rank * 8 // world : (rank + 1) * 8 // world] for key, value in rows.items()}
    method.step(mine, 0)
    return method.state_dict()


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path):
    one, two = of_one_and_of_two_ranks(one_step, tmp_path)
    first = build("rough").state_dict()
    assert not torch.equal(one["decoder.out.weight"], first["decoder.out.weight"])
    for key, value in one.items():
        assert torch.allclose(value, two[key], atol=1e-5), key


@pytest.mark.parametrize("system", ["cgan", "rough", "sharp", "face"])
def test_sample_grids_and_validation_metrics(system):
    method = build(system).eval()
    method.meta = method.meta | {META_KEY: real_diversity(Toys(256), method.columns, method.picture_of)}
    with torch.no_grad():
        grids, figures = method.sample(batch()), method.validate(batch())
    assert {"requests", "toggle", "real"} <= set(grids)
    for grid in grids.values():
        assert isinstance(grid, Grid) and grid.images.ndim == 5 and grid.images.abs().max() <= 1
    rows, columns = grids["requests"].images.shape[:2]
    assert columns == 8 and rows == len(method.meta[META_KEY]["requests"])
    assert grids["toggle"].rows == [ATTRIBUTES[k] for k in method.columns]
    assert all(value.isfinite() for value in figures.values())


def test_real_diversity_compares_faces_with_equal_requests():
    toys = Toys(256)
    found = real_diversity(toys, [0, 2], lambda b: b["image"])
    assert sorted(found["requests"]) == [[0, 0], [0, 1], [1, 0], [1, 1]]
    group = toys.image[(toys.attr[:, 0] == 1) & (toys.attr[:, 2] == 1)][:64]
    others = [toys.image[(toys.attr[:, 0] == a) & (toys.attr[:, 2] == b)][:64] for a, b in ((0, 0), (0, 1), (1, 0))]
    mean = sum(pairs_within(g)[0] for g in (group, *others)) / 4
    assert found["ssim"] == pytest.approx(mean, abs=1e-3)
    assert found["within"] < found["between"]
    assert real_diversity(Toys(16), [0, 1, 2, 3], lambda b: b["image"])["requests"] == []


def test_diversity_checks_fail_for_collapse_and_pass_for_real_faces():
    toys = Toys(512)
    real = real_diversity(toys, [0, 2], lambda b: b["image"])
    groups = [toys.image[(toys.attr[:, 0] == a) & (toys.attr[:, 2] == b)][64:80] for a, b in real["requests"]]
    assert failed_checks(diversity_of(groups), real, SampledMethod.remedies) == {}
    one_face = [g.mean(0, keepdim=True).expand(16, -1, -1, -1) for g in groups]  # a generator without z
    assert "collapse" in failed_checks(diversity_of(one_face), real, SampledMethod.remedies)
    deaf = [groups[0]] * len(groups)  # a generator without a
    assert set(failed_checks(diversity_of(deaf), real, SampledMethod.remedies)) == {"request"}


def patches(x: torch.Tensor) -> torch.Tensor:
    """(N, 4): whether each of a toy's patches is brighter than the picture around it."""
    corners = [x[:, :, 16 * (k // 2) + 5 : 16 * (k // 2) + 11, 16 * (k % 2) + 5 : 16 * (k % 2) + 11] for k in range(4)]
    around = x[:, :, 14:18].mean((1, 2, 3))
    return torch.stack([c.mean((1, 2, 3)) - around for c in corners], 1) > 0.4


@pytest.mark.slow
def test_cgan_follows_requests_on_toy_faces():
    """Four patches, each shown or not: after 200 steps most are as requested (chance .5), and noises differ."""
    toys = Toys(512)
    assert (patches(toys.image) == (toys.attr > 0.5)).float().mean() > 0.97
    rates = {"lr": 2e-3, "lr_critic": 2e-3}
    method = build("cgan", loss={"r1_every": 8}, total_steps=200, batch_size=16, ema_decay=0.98, **rates)
    batches = toys.batches(16)
    for step in range(200):
        torch.manual_seed(step)
        method.step(next(batches), step)
    method.eval()
    torch.manual_seed(0)
    with torch.no_grad():
        x = method.draw(2 * toys.attr[:256] - 1, torch.randn(256, 8))
    obeyed = (patches(x) == (toys.attr[:256] > 0.5)).float().mean().item()
    assert obeyed >= 0.8, obeyed  # measured 1.0
    real = real_diversity(toys, [0, 2], lambda b: b["image"])
    hue = lambda v: v.mean((2, 3)).std(0).mean().item()  # noqa: E731
    assert hue(x) > 0.4 * hue(toys.image) and real["within"] > 0

"""The picture of all methods, and the steps of the demo."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_editing import Toy
from test_results import Slow

from benchmarks.picture import first_faces, methods_grid
from data import DataConfig
from engine.errors import UserError
from scripts import benchmark, demo, methods_picture


@pytest.fixture
def cfg() -> DataConfig:
    return DataConfig(dataset="synthetic", image_size=32, num_train=30, num_val=20, num_test=20)


def test_rows_are_methods_and_the_ground_truth(cfg: DataConfig, tmp_path: Path) -> None:
    faces = first_faces(cfg, 2)
    assert faces.names == ["test:0", "test:10"], "the first face of each of the first persons"
    grid = methods_grid({"toy": Toy(tmp_path), "slow": Slow(tmp_path)}, faces)
    assert grid.rows == ["toy", "slow", "ground truth"] * 2 and grid.columns[0] == "input" and len(grid.columns) == 8
    assert grid.images.shape[:2] == (6, 8)
    for row in range(6):
        assert torch.equal(grid.images[row, 0], faces.batch["image"][row // 3])
    missing = [grid.columns[k] for k, text in enumerate(grid.tiles[1]) if text == "not possible"]
    assert missing == ["fear", "sad"] and not any(grid.tiles[0])
    own = grid.columns.index(faces.meta["classes"][int(faces.batch["label"][0])])
    assert (grid.images[2, own] - grid.images[2, 0]).abs().max() < 0.02, "the truth of the face's own class is the face"


def test_runs_of_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert methods_picture.chosen_runs(["VAE=runs/a"]) == {"VAE": Path("runs/a")}
    with pytest.raises(UserError, match="expected TITLE=RUN"):
        methods_picture.chosen_runs(["runs/a"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no method is trained"):
        methods_picture.chosen_runs([])
    run = tmp_path / "runs" / "gcgan" / "synthetic32"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    assert methods_picture.chosen_runs([]) == {"StarGAN": Path("runs/gcgan/synthetic32")}
    assert "Glow is left out" in capsys.readouterr().out


def test_the_demo_measures_what_is_released(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("aae_cgan", "interface_gan", "cgan", "judge"):
        (tmp_path / f"{name}.safetensors").touch()
    released, judge = demo.released_methods(tmp_path), demo.released_judge(tmp_path)
    assert list(released) == ["InterFaceGAN", "AAE + CGAN"] and judge == tmp_path / "judge"
    editors = {title: SimpleNamespace(slow_encode=title == "InterFaceGAN") for title in released}
    jobs = {job.name: job for job in demo.plan_jobs(released, editors, judge, Path("runs/demo"))}
    assert set(jobs) == {"train the VAE", "measure baselines", "measure aae_cgan", "measure demo"}
    assert jobs["measure demo"].needs == ("train the VAE",) and not jobs["measure aae_cgan"].needs
    assert "InterFaceGAN is in the picture" in capsys.readouterr().out
    args = benchmark.arguments(list(jobs["measure aae_cgan"].command[2:]))
    assert benchmark.chosen(args).judges == (str(tmp_path / "judge"),) and args.runs == [tmp_path / "aae_cgan"]


def test_the_demo_s_photos_are_the_first_row_of_the_figure(tmp_path: Path) -> None:
    figure = np.asarray(Image.open(demo.FIGURE).convert("RGB"))
    for i, path in enumerate(demo.cut_photos(tmp_path)):
        photo, left = np.asarray(Image.open(path).convert("RGB")), demo.LEFT + i * (demo.TILE[0] + demo.GAP)
        assert photo.shape == (demo.TILE[1], demo.TILE[0], 3) and (photo == figure[:218, left : left + 178]).all()
        gaps = figure[:218, [left - 1, left + 178]] if i < 3 else figure[:218, [left - 1]]
        assert (gaps > 245).all() and photo[:, [0, -1]].std() > 1  # exactly between the gaps


def test_the_demo_trains_a_judge_where_none_is_released(tmp_path: Path) -> None:
    from tests.test_commands import check_train

    assert not demo.released_methods(tmp_path) and demo.released_judge(tmp_path) is None
    jobs = {job.name: job for job in demo.plan_jobs({}, {}, None, Path("runs/demo"))}
    assert all("train the judge" in jobs[name].needs for name in ("measure baselines", "measure demo"))
    check_train("evaluation", list(jobs["train the judge"].command[3:]))
    check_train("vae", list(jobs["train the VAE"].command[2:]))

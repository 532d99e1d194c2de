"""Every mode of aae_cgan/sample.py on a run of a few steps; exports, strips and edits."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from editor_contract import EYES, GreyJudge, check
from layouts import write_folders
from PIL import Image

from aae_cgan import sample, train
from aae_cgan.config import Config
from aae_cgan.editor import Editor
from aae_cgan.figures import diversity, mmd
from aae_cgan.train import AAECGAN
from data import build_faces
from editing import modes
from engine import load
from engine.grids import to_uint8
from evaluation.manifest import read_export, read_manifest
from families import open_editor

pytestmark = pytest.mark.slow  # whole runs

SMALL = [
    *("data.num_train=300", "data.num_val=40", "data.num_test=40", "model.width=8", "model.latent_dim=32"),
    *("train.total_steps=8", "train.batch_size=8", "train.val_images=32", "train.sample_size=8"),
    *(
        "loss.lambda_guide=1",
        "loss.guide_steps=3",
        "train.sample_every=8",
        "train.validate_every=8",
        "train.log_every=2",
    ),
]
COLUMNS = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]


@pytest.fixture(scope="module", autouse=True)
def fast_pca() -> Iterator[None]:
    """Fit the linear path by randomised PCA, which is also used above 4096 dimensions. It saves ten seconds per run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aae_cgan.linear.MAX_EXACT_DIM", 0)
        yield


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aae_cgan") / "run"
    config = Path(__file__).parent.parent / "configs/aae_cgan/synthetic32.yaml"
    train.main(["--config", str(config), "--run-dir", str(folder), *SMALL])
    return folder


@pytest.fixture(scope="module")
def editor(run_dir: Path) -> Editor:
    found = open_editor(run_dir, device="cpu")
    assert isinstance(found, Editor)
    return found


def test_editor_contract(editor, photo):
    check(editor, "happy", photo)


def call(run_dir: Path, mode: str, *options: str) -> None:
    sample.main([mode, "--run-dir", str(run_dir), "--device", "cpu", *options])


def facts(path: Path) -> dict:
    return json.loads(path.with_suffix(".json").read_text())


def test_training_writes_samples(run_dir):
    names = {path.name for path in (run_dir / "samples").iterdir()}
    assert {"step_0000008_strip.png", "step_0000008_prior.png", "step_0000008_reconstruction.png"} <= names
    row = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()][-1]
    assert {"val/l1", "val/psnr", "val/gap_label", "val/guide_edit", "val/code_std"} <= set(row)


@pytest.mark.parametrize(
    ("mode", "options", "files"),
    [
        ("strip", ["test:4", "val:2", "--from", "sad"], ["strip.png", "strip.json"]),
        ("latent", [], ["latent.json"]),
        ("curve", [], ["curve.png", "curve.json"]),
        ("report", ["--n", "30"], ["report.json"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else value,
)
def test_a_mode_writes_its_files(run_dir, mode, options, files):
    shutil.rmtree(run_dir / "pictures", ignore_errors=True)
    call(run_dir, mode, *options)
    for name in files:
        assert (run_dir / "pictures" / name).stat().st_size > 0
    record = next(path for path in (run_dir / "pictures").glob("*.json"))
    assert {"command", "seed", "step", "sha256"} <= set(facts(record))


def test_photo_keeps_its_size(run_dir, photo, tmp_path, capsys):
    call(run_dir, "edit", photo, "--attr", "happy", "--eyes", EYES, "--out", str(tmp_path / "e.png"))
    edited = np.asarray(Image.open(tmp_path / "e_me.png"))
    assert edited.shape == (140, 180, 3)
    assert "predicted by the guide" in capsys.readouterr().out


def test_export_names_the_guide(run_dir, tmp_path):
    call(run_dir, "export", "--what", "edit", "--n", "3", "--attr", "happy=0.7", "--out", str(tmp_path / "one"))
    assert list(read_export(tmp_path / "one")["guides"]) == ["own guide"]
    rows = [row for row in read_manifest(tmp_path / "one") if row.kind == "edit"]
    assert {(row.target, row.strength) for row in rows} == {("happy", 0.7)} and all(row.truth for row in rows)


def test_edit_changes_the_label_with_strength(editor):
    faces = editor.take("test", range(2))
    x, target = faces.images, torch.eye(7)[[3, 3]]
    source = torch.eye(7)[faces.batch["label"]]
    half, whole = editor.edit(faces, editor.parse("happy"), (0.5, 1.0))
    with torch.no_grad():
        z = editor.method.encode(x)
        assert torch.equal(half, editor.method.decode(z, source + 0.5 * (target - source)))
        assert torch.equal(whole, editor.method.decode(z, target))
    mixed = editor.target(faces, editor.parse("happy=0.7"))["y"]
    assert (
        torch.allclose(mixed, 0.7 * target + 0.3 * source) and editor.target(faces, editor.parse("happy=0"))["y"][0, 6]
    )


def test_draw_uses_the_label(editor):
    assert torch.equal(editor.draw([3, 4], editor.parse("happy")).code["y"], torch.eye(7)[[3, 3]])
    assert {k.item() for k in editor.draw(range(60)).code["y"].argmax(1)} == set(range(7))


JUDGE = GreyJudge("neutral", *COLUMNS[:-1], "contempt")  # another order than the run's


def test_report_with_judge(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.classifier.load", lambda *args, **kwargs: JUDGE)
    call(run_dir, "report", "--n", "20", "--judge", "j", "--out", str(tmp_path / "r.png"))
    found = facts(tmp_path / "r.png")
    assert 0 <= found["target_accuracy"] <= 1 and np.shape(found["confusion"]) == (7, 7)


def test_strip_order_does_not_depend_on_folder_order(tmp_path, monkeypatch):
    """Columns keep their order and labels; captions are the judge's predictions for the shown images."""
    classes = ["sad", "neutral", "contempt", "happy", "angry"]
    write_folders(tmp_path / "faces", classes, per_group=12, size=32)
    config, run = Path(__file__).parent.parent / "configs/aae_cgan/folder64.yaml", tmp_path / "run"
    small = ["model.latent_dim=16", "data.image_size=32", f"data.root={tmp_path / 'faces'}"]
    small.append(f"data.classes=[{', '.join(classes)}]")
    train.main(["--config", str(config), "--run-dir", str(run), *SMALL[3:], *small])
    seen, decode = [], Editor.decode
    monkeypatch.setattr(Editor, "decode", lambda self, code: (seen.append(code["y"]), decode(self, code))[1])
    judge, grids = JUDGE, []
    monkeypatch.setattr("evaluation.classifier.load", lambda *args, **kwargs: judge)
    monkeypatch.setattr(modes, "write_grid", lambda editor, args, grid, *a, **k: grids.append(grid))
    call(run, "strip", "--n", "3", "--judge", "j")
    (grid,) = grids
    columns = ["input", "angry", "happy", "sad", "neutral", "contempt"]
    assert grid.columns == columns and grid.images.shape[:2] == (3, 6)
    targets = [{classes[k] for k in y.argmax(1).tolist()} for y in seen[-5:]]  # the reconstruction comes before them
    assert targets == [{name} for name in columns[1:]]
    shown = judge.logits(torch.from_numpy(to_uint8(grid.images.flatten(0, 1))))
    known = [judge.names.index(name) for name in classes]
    read = [classes[k] for k in judge.probabilities(shown)[:, known].argmax(1).tolist()]
    assert [tile.split(" ")[0] for row in grid.tiles for tile in row] == read


def test_run_opens_without_its_data(run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    method = load(tmp_path / "run", Config, AAECGAN, device="cpu")
    assert method.linear.basis.abs().sum() > 0 and method.linear is method.encoder.linear
    faces = build_faces(method.cfg.data)
    x = faces.test.fixed(4)["image"]
    straight = method.linear.decode(method.linear.encode(x))
    shown = method.decode(method.encode(x), torch.eye(7)[:4])
    assert (shown - straight).abs().mean() < 0.03  # it had a few steps


@pytest.mark.slow
def test_a_run_of_attributes(photo, tmp_path):
    config, run = Path(__file__).parent.parent / "configs/aae_cgan/synthetic32.yaml", tmp_path / "run"
    targets = ["data.attributes=[Smiling, Eyeglasses, Male]", "model.condition=attributes"]
    train.main(["--config", str(config), "--run-dir", str(run), *SMALL, *targets])
    editor = open_editor(run, device="cpu")
    assert (editor.classes, editor.attributes) == ([], ["Smiling", "Eyeglasses", "Male"])
    check(editor, "Smiling=flip", photo)
    faces = editor.take("test", range(4))
    y = 2 * faces.batch["attr"] - 1
    target = editor.target(faces, editor.parse("Smiling=flip,Male=1"))["y"]
    assert torch.equal(target, torch.stack([-y[:, 0], y[:, 1], torch.ones(4)], 1))
    call(run, "strip", "--n", "2")
    call(run, "latent")
    call(run, "export", "--what", "edit", "--n", "4", "--out", str(tmp_path / "all"))
    rows = [row for row in read_manifest(tmp_path / "all") if row.kind == "edit"]
    assert len(rows) == 12 and all(row.truth for row in rows)
    assert {row.target.split("=")[0] for row in rows} == {"Smiling", "Eyeglasses", "Male"}
    call(run, "export", "--what", "sample", "--n", "4", "--out", str(tmp_path / "drawn"))
    assert len(read_manifest(tmp_path / "drawn")) == 4


# Figures.


def test_mmd_and_diversity_detect_collapse():
    torch.manual_seed(0)
    a, b = torch.randn(400, 8), torch.randn(400, 8)
    assert abs(mmd(a, b)) < 0.01 < mmd(a, 0.3 * b)
    x = torch.randn(20, 1, 8, 8)
    assert diversity(x[:1].expand(20, -1, -1, -1), torch.zeros(20)) == 0 < diversity(x, torch.zeros(20))

"""Every mode of `flow/sample.py` on a run of twenty steps: its files, its bytes, its refusals."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.request import parse_request
from engine.grids import save_image, to_pil
from evaluation.manifest import read_manifest
from flow import sample, train
from flow.edit_modes import target_labels
from flow.likelihood import class_log_probs
from flow.model import GlowFlow
from flow.session import Session
from losses.quantise import dequantise, to_levels

pytestmark = pytest.mark.slow  # whole runs

YAML = """
data: {dataset: synthetic, image_size: 32, num_train: 300, num_val: 60, num_test: 40, attributes: [Smiling, Male]}
model: {num_levels: 2, num_steps: 1, width: 8, condition: planes, num_planes: 2, memory: stored}
train: {total_steps: 20, batch_size: 16, log_every: 20, save_every: 20, sample_every: 0, validate_every: 0,
        lr_warmup: 3}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three runs: `labels`, `plain` and `bits`."""
    folder = tmp_path_factory.mktemp("flow")
    (folder / "small.yaml").write_text(YAML)
    before = sys.argv
    told = {"labels": [], "plain": ["model.condition=none", "loss.n_bits=8"], "bits": ["model.condition_on=[Smiling]"]}
    for name, more in told.items():
        sys.argv = ["train.py", "--config", str(folder / "small.yaml"), "--run-dir", str(folder / name), *more]
        train.main()
    sys.argv = before
    return folder


def mode(run: Path, *words: str) -> None:
    sample.main([words[0], "--run-dir", str(run), *words[1:]])


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (["grid", "--n", "5"], ["grid.png", "grid.json"]),
        (["temperature", "--levels"], ["temperature.png"]),
        (["recon", "--n", "3"], ["recon.png", "recon.json"]),
        (["directions"], ["directions_ols.png", "directions_ols.json", "../directions_ols.pt"]),
        (["edit", "--attr", "Smiling=flip", "--n", "3", "--gain", "auto", "--strip=-1:1:3"], ["edit.png", "edit.webp"]),
        (["edit", "test:1", "test:3", "--attr", "happy=0.7", "--strip=0:1:3"], ["edit.png"]),
        (["edit", "test:1", "--attr", "happy", "--kind", "local", "--k", "10", "--levels", "2"], ["edit.png"]),
        (["transfer", "test:0", "test:7", "--to", "happy", "sad"], ["transfer.png"]),
        (["classify", "--n", "20"], ["classify.json", "classify.png"]),
        (
            ["interpolate", "test:0", "test:9", "test:20", "test:30", "--n", "3"],
            ["interpolate.png", "interpolate.webp"],
        ),
        (["interpolate", "test:0", "test:9", "--mix"], ["mix.png"]),
        (["score", "--n", "6"], ["score.csv", "score.json"]),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else v,
)
def test_a_mode_writes_its_files(runs: Path, words: list[str], files: list[str]) -> None:
    mode(runs / "labels", *words)
    for name in files:
        assert (runs / "labels" / "pictures" / name).is_file(), name
    note = json.loads((runs / "labels" / "pictures" / files[0]).with_suffix(".json").read_text())
    assert note["step"] == 20 and len(note["sha256"]) == 64 and note["seed"] == 0


def test_plain_pictures_look_more_likely_than_faces(runs: Path, tmp_path: Path) -> None:
    """Why raw bits/dim is no detector of anomalies, and why the table has other columns."""
    for i in range(4):
        Image.new("RGB", (40, 40), (90 + 20 * i,) * 3).save(tmp_path / f"flat_{i}.png")
    mode(runs / "labels", "score", "--n", "6", "--against", str(tmp_path), "--out", str(tmp_path / "score.csv"))
    note = json.loads((tmp_path / "score.json").read_text())
    assert note["auroc bits_per_dim"] < 0.5 and 0 <= note["auroc typicality"] <= 1
    header = (tmp_path / "score.csv").read_text().splitlines()[0]
    assert header == "face,bits_per_dim,minus_webp,typicality,norm_level_1,norm_level_2"


def test_everything_comes_back(runs: Path) -> None:
    for name in ("labels", "plain"):
        mode(runs / name, "recon")
        assert json.loads((runs / name / "pictures" / "recon.json").read_text())["same_bytes"] == 1


@pytest.mark.slow
def test_the_report_has_its_yardsticks(runs: Path) -> None:
    mode(runs / "labels", "report", "--draws", "2", "--n", "20")
    found = json.loads((runs / "labels" / "pictures" / "report.json").read_text())
    assert found["same_bytes"] == 1 and found["finite_samples"] == 1 and found["largest_error"] < 1e-5
    assert found["bits_per_dim_2_draws"] < found["bits_per_dim"] and 0 <= found["leak"]["reader_accuracy"] <= 1
    assert set(found["yardsticks"]) >= {"independent pixels", "png", "webp lossless"}
    assert found["yardsticks"]["training faces"] == 300


def test_exports_are_read_by_the_judge(runs: Path, tmp_path: Path) -> None:
    for what, more in (
        ("sample", []),
        ("reconstruction", []),
        ("edit", ["--attr", "happy", "--gain", "0", "--kind", "ols"]),
        ("transfer", ["--attr", "happy", "--gain", "1"]),
    ):
        folder = tmp_path / what
        mode(runs / "labels", "export", "--what", what, "--n", "20", "--out", str(folder), *more)
        rows = read_manifest(folder)
        assert len(rows) == 20 and json.loads((folder / "export.json").read_text())["n_bits"] == 5
        if what in ("edit", "transfer"):
            assert all(row.target == "happy" and row.truth for row in rows)
            happy = next(row for row in rows if row.source_label == "happy")
            assert same(folder / happy.source, folder / happy.truth)  # already there: the answer is the face itself
            moved = [not same(folder / row.file, folder / row.source) for row in rows]
            assert not any(moved) if what == "edit" else any(moved)
        if what == "reconstruction":
            assert all(same(folder / row.file, folder / row.source) for row in rows)


def opened(run: Path) -> Session:
    """A run as the modes open it."""
    return Session(argparse.Namespace(run_dir=run, step=None, device="cpu", seed=0, out=None))


def test_the_grid_counts_what_is_not_finite(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = GlowFlow.decode

    def exploding(self: GlowFlow, *args: object) -> torch.Tensor:
        v = real(self, *args)
        v[0, 0, 0, 0] = float("inf")
        return v

    monkeypatch.setattr(GlowFlow, "decode", exploding)
    mode(runs / "plain", "grid", "--n", "5", "--out", str(tmp_path / "grid.png"))
    assert json.loads((tmp_path / "grid.json").read_text())["not_finite"] == pytest.approx(0.2)


def test_a_mixture_stands_between_the_photos_themselves(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(Session, "write", lambda self, grid, name, **facts: seen.append(grid))
    mode(runs / "labels", "interpolate", "test:0", "test:9", "--mix")
    faces = opened(runs / "labels").split("test").take(np.array([0, 9]))["image"]
    assert seen[0].rows == ["A from level 2"] and torch.equal(seen[0].images[0, :2], faces)
    assert not torch.equal(seen[0].images[0, 2], faces[0])


def test_a_bit_that_nobody_told_is_read_before_it_is_turned(runs: Path) -> None:
    session = opened(runs / "bits")
    batch = session.split("test").take(np.arange(20))
    unknown = torch.full_like(session.table(batch), float("nan"))
    with torch.inference_mode():
        v = dequantise(to_levels(batch["image"], 5), 5, 0.5)
        read = class_log_probs(session.flow, session.labels, v).argmax(2).float()
        y = session.y_from(batch["image"], unknown)
    share = session.labels.frequency
    assert torch.allclose(y, read - share)
    flipped = target_labels(session, y, parse_request("Smiling=flip", session.meta["classes"], ["Smiling"]))
    assert torch.allclose(flipped, 1 - read - share, atol=1e-6)
    known = session.y_from(batch["image"], session.table(batch))
    assert torch.allclose(known, session.labels.of(batch))


def test_a_face_is_scored_alike_as_a_file_and_as_a_face_of_the_data(runs: Path, tmp_path: Path, monkeypatch) -> None:
    names = [f"test:{i}" for i in range(12)]
    faces = opened(runs / "labels").split("test").take(np.arange(12))["image"]
    (tmp_path / "files").mkdir()
    for i, face in enumerate(faces):
        save_image(to_pil(face), tmp_path / "files" / f"{i:02d}.png")
    told, real = [], Session.bits
    monkeypatch.setattr(Session, "bits", lambda self, x, y, draws=1: [told.append((x, y)), real(self, x, y, draws)][1])
    out = ["--out", str(tmp_path / "score.csv")]
    mode(runs / "labels", "score", *names, "--against", str(tmp_path / "files"), *out)
    (x, y), (others, theirs) = [(x, y) for x, y in told if len(x) == 12]
    assert torch.equal(x, others) and torch.equal(y, theirs)


def test_photos_of_one_name_do_not_overwrite_each_other(runs: Path, tmp_path: Path) -> None:
    photos = [tmp_path / folder / "me.png" for folder in "ab"]
    for seed, photo in enumerate(photos):
        photo.parent.mkdir()
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (80, 80, 3), dtype=np.uint8)).save(photo)
    words = ["--eyes", "whole", "--attr", "Smiling=+0.0", "--out", str(tmp_path / "edit.png")]
    mode(runs / "plain", "edit", *map(str, photos), *words)
    assert same(photos[0], tmp_path / "edit_me.png") and same(photos[1], tmp_path / "edit_me_2.png")


def test_as_many_faces_are_taken_as_were_asked_for(runs: Path, tmp_path: Path, capsys) -> None:
    mode(runs / "labels", "classify", "--n", "20", "--out", str(tmp_path / "classify.json"))
    assert json.loads((tmp_path / "classify.json").read_text())["images"] == 20
    path = runs / "plain" / "directions_mean.pt"
    mode(runs / "plain", "directions", "--kind", "mean", "--max", "250")
    held = torch.load(path, weights_only=True)
    assert held["provenance"]["max"] == 250 and held["count"].sum(1).max() == 250
    mode(runs / "plain", "edit", "test:0", "--attr", "Smiling=1", "--kind", "mean", "--out", str(tmp_path / "edit.png"))
    assert "fitted to 250 training faces only" in capsys.readouterr().out
    path.unlink()


def same(a: Path, b: Path) -> bool:
    return bool((np.asarray(Image.open(a)) == np.asarray(Image.open(b))).all())


def test_an_own_photo_keeps_what_the_edit_leaves_alone(runs: Path, tmp_path: Path) -> None:
    photo = tmp_path / "me.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)).save(photo)
    out = tmp_path / "edit.png"
    mode(runs / "plain", "edit", str(photo), "--eyes", "whole", "--attr", "Smiling=+0.0", "--out", str(out))
    assert same(photo, tmp_path / "edit_me.png")


@pytest.mark.parametrize(
    ("run", "words", "said"),
    [
        ("plain", ["transfer", "test:0"], "trained without labels .* `sample.py edit`"),
        ("plain", ["classify"], "trained without labels"),
        ("labels", ["edit", "--attr", "Smilling=1"], "unknown here; the nearest names are"),
        ("plain", ["edit", "--attr", "happy", "--kind", "transfer"], "trained without labels"),
        ("labels", ["edit", "--attr", "Male=1", "--kind", "transfer"], "the run was told angry, .* only"),
        ("labels", ["edit", "--attr", "happy", "--gain", "auto"], "a transfer takes a number"),
        ("labels", ["edit", "--attr", "happy", "--gain", "much"], "--gain much: expected a number or auto"),
        (
            "labels",
            ["edit", "--attr", "happy", "--kind", "ols", "--levels", "9"],
            "--levels 9: expected numbers from 1",
        ),
        ("labels", ["edit", "--attr", "happy", "--kind", "ols", "--levels", "2,x"], "--levels 2,x: expected numbers"),
        ("labels", ["edit", "--attr", "happy", "--keep", "sad"], "--keep and --levels act on directions"),
        ("labels", ["edit", "--attr", "happy", "--levels", "2"], "--keep and --levels act on directions"),
        ("plain", ["edit", "--attr", "Smiling=+1.0", "--keep", "Smiling"], "--keep Smiling: holds all"),
        ("labels", ["interpolate", "test:0"], "expected two or four faces"),
        ("labels", ["interpolate", *(f"test:{i}" for i in range(4)), "--mix"], "mixes the levels of two faces"),
        ("labels", ["grid", "--label", "angryy"], "nearest names are angry"),
        ("labels", ["export", "--what", "edit", "--out", "x"], "say what to change"),
    ],
)
def test_wrong_wishes_are_sentences(runs: Path, capsys, run: str, words: list[str], said: str) -> None:
    import re

    with pytest.raises(SystemExit) as leaving:
        mode(runs / run, *words)
    assert leaving.value.code == 2 and re.search(said, capsys.readouterr().err)


def test_directions_of_other_weights_name_the_command(runs: Path, capsys) -> None:
    mode(runs / "plain", "directions")
    path = runs / "plain" / "directions_ols.pt"
    held = torch.load(path, weights_only=True)
    held["provenance"]["sha256"] = "0" * 64
    torch.save(held, path)
    with pytest.raises(SystemExit):
        mode(runs / "plain", "edit", "test:0", "--attr", "Smiling=1")
    assert "refit with python flow/sample.py directions" in capsys.readouterr().err
    path.unlink()

"""Every mode of `flow/sample.py` on a run of twenty steps: files, bytes, errors."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from editor_contract import EYES, check
from PIL import Image

from engine.grids import save_image, to_pil
from evaluation.manifest import read_manifest
from families import open_editor
from flow import density, sample, train
from flow.editor import Editor, Options
from flow.likelihood import class_log_probs
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
    changes = {
        "labels": [],
        "plain": ["model.condition=none", "loss.n_bits=8"],
        "bits": ["model.condition_on=[Smiling]"],
    }
    for name, more in changes.items():
        train.main(["--config", str(folder / "small.yaml"), "--run-dir", str(folder / name), *more])
    return folder


def opened(run: Path, **options: object) -> Editor:
    return open_editor(run, Options(**options), device="cpu")


@pytest.mark.parametrize(
    ("run", "request_"),
    [("labels", "happy"), ("labels", "Smiling=1"), ("plain", "Smiling=flip"), ("bits", "Smiling=flip")],
)
def test_editor_contract(runs: Path, photo: str, run: str, request_: str) -> None:
    check(opened(runs / run), request_, photo)


def mode(run: Path, *words: str) -> None:
    sample.main([words[0], "--run-dir", str(run), *words[1:]])


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (["draw", "--n", "5", "--attr", "happy"], ["draw.png", "draw.json"]),
        (["temperature", "--by-level"], ["temperature.png"]),
        (["recon", "--n", "3"], ["recon.png", "recon.json"]),
        (["directions"], ["directions_ols.png", "directions_ols.json", "../directions_ols.pt"]),
        (["slider", "--attr", "Smiling=flip", "--n", "3", "--gain", "auto", "--strength", "-1:1:3"], ["slider.webp"]),
        (["edit", "test:1", "seed:3", "--attr", "happy=0.7"], ["edit.png"]),
        (["edit", "test:1", "--attr", "happy", "--kind", "ols", "--levels", "2"], ["edit.png"]),
        (["strip", "test:0", "test:7"], ["strip.png"]),
        (["classify", "--n", "20"], ["classify.json", "classify.png"]),
        (["interpolate", "test:0", "test:9", "test:20", "seed:3", "--n", "3"], ["interpolate.webp"]),
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


def test_flat_images_get_fewer_bits_than_faces(runs: Path, tmp_path: Path) -> None:
    """Raw bits/dim do not detect anomalies; hence the other columns."""
    for i in range(4):
        Image.new("RGB", (40, 40), (90 + 20 * i,) * 3).save(tmp_path / f"flat_{i}.png")
    mode(runs / "labels", "score", "--n", "6", "--against", str(tmp_path), "--out", str(tmp_path / "score.csv"))
    note = json.loads((tmp_path / "score.json").read_text())
    assert note["auroc bits_per_dim"] < 0.5 and 0 <= note["auroc typicality"] <= 1
    header = (tmp_path / "score.csv").read_text().splitlines()[0]
    assert header == "face,bits_per_dim,minus_webp,typicality,norm_level_1,norm_level_2"


def test_reconstruction_is_exact(runs: Path) -> None:
    for name in ("labels", "plain"):
        mode(runs / name, "recon")
        assert json.loads((runs / name / "pictures" / "recon.json").read_text())["equal_bytes"] == 1


@pytest.mark.slow
def test_report_contains_baselines(runs: Path) -> None:
    torch.manual_seed(0)  # the bound of more draws is tighter on average only
    mode(runs / "labels", "report", "--draws", "8", "--n", "20")
    found = json.loads((runs / "labels" / "pictures" / "report.json").read_text())
    assert found["same_bytes"] == 1 and found["finite_samples"] == 1 and found["largest_error"] < 1e-5
    assert found["bits_per_dim_8_draws"] < found["bits_per_dim"] and 0 <= found["label_probe"]["accuracy"] <= 1
    assert set(found["density_baselines"]) >= {"independent pixels", "png", "webp lossless"}
    assert found["density_baselines"]["training faces"] == 300


def test_evaluation_reads_exports(runs: Path, tmp_path: Path) -> None:
    for what in ("sample", "reconstruction"):
        mode(runs / "labels", "export", "--what", what, "--n", "20", "--out", str(tmp_path / what))
        rows = read_manifest(tmp_path / what)
        assert len(rows) == 20 and json.loads((tmp_path / what / "export.json").read_text())["n_bits"] == 5
        if what == "reconstruction":
            assert all(same(tmp_path / what / row.file, tmp_path / what / row.source) for row in rows)
    for name, more in (("nothing", ["--gain", "0", "--kind", "ols"]), ("label", ["--gain", "1"])):
        folder = tmp_path / name
        mode(runs / "labels", "export", "--what", "edit", "--attr", "happy", "--n", "20", "--out", str(folder), *more)
        rows = [row for row in read_manifest(folder) if row.kind == "edit"]
        assert len(rows) == 20 and all(row.target == "happy" and row.truth for row in rows)
        happy = next(row for row in rows if row.source_label == "happy")
        assert same(folder / happy.source, folder / happy.truth)  # already there: the truth is the face itself
        moved = [not same(folder / row.file, folder / row.source) for row in rows]
        assert not any(moved) if name == "nothing" else any(moved)


def test_gain_of_label_edits(runs: Path) -> None:
    editor = opened(runs / "labels", gain="1")
    faces = editor.take("test", range(4))
    code = editor.codes(faces)
    target = editor.target(faces, editor.parse("happy"))
    happy = torch.eye(7)[[editor.classes.index("happy")] * 4]
    assert target["eps"] is code["eps"] and torch.allclose(target["y"], happy)
    editor.options = Options(gain="2")  # options may change while the run is open
    assert torch.allclose(editor.target(faces, editor.parse("happy"))["y"], 2 * happy - code["y"])
    along = editor.target(faces, editor.parse("Smiling=flip"))  # not conditioned on: a direction
    assert along["y"] is code["y"] and not torch.equal(along["eps"], code["eps"])


def test_unknown_attribute_is_predicted_before_flip(runs: Path) -> None:
    editor = opened(runs / "bits")
    faces = editor.take("test", range(20))
    x, table, share = faces.images, editor.labels(faces), editor.y_labels.frequency
    with torch.no_grad():
        v = dequantise(to_levels(x, 5), 5, 0.5)
        read = class_log_probs(editor.flow, editor.y_labels, v).argmax(2).float()
        y = editor.y_of(x, torch.full_like(table, float("nan")))
        assert torch.allclose(y, read - share)
        assert torch.allclose(editor.target_labels(y, editor.parse("Smiling=flip")), 1 - read - share, atol=1e-6)
        assert torch.allclose(editor.y_of(x, table), editor.y_labels.of(faces.batch))


def test_draw_uses_temperature_and_label(runs: Path) -> None:
    hot, cold = (opened(runs / "labels", temperature=t).draw([3, 4]) for t in (1.0, 0.5))
    assert torch.allclose(hot.code["eps"], 2 * cold.code["eps"])
    editor = opened(runs / "labels")
    assert (editor.draw([3, 4], editor.parse("sad")).code["y"].argmax(1) == editor.classes.index("sad")).all()


def test_score_is_equal_for_file_and_data_face(runs: Path, tmp_path: Path, monkeypatch) -> None:
    names = [f"test:{i}" for i in range(12)]
    faces = opened(runs / "labels").take("test", range(12)).images
    (tmp_path / "files").mkdir()
    for i, face in enumerate(faces):
        save_image(to_pil(face), tmp_path / "files" / f"{i:02d}.png")
    calls, real = [], density.image_bits_of

    def noted(editor, x, y, *more, **how):
        calls.append((x, y))
        return real(editor, x, y, *more, **how)

    monkeypatch.setattr("flow.density_modes.image_bits_of", noted)
    out = ["--out", str(tmp_path / "score.csv")]
    mode(runs / "labels", "score", *names, "--against", str(tmp_path / "files"), *out)
    (x, y), (others, theirs) = [(x, y) for x, y in calls if len(x) == 12]
    assert torch.equal(x, others) and torch.equal(y, theirs)


def test_number_of_faces_equals_n(runs: Path, tmp_path: Path, capsys) -> None:
    mode(runs / "labels", "classify", "--n", "20", "--out", str(tmp_path / "classify.json"))
    assert json.loads((tmp_path / "classify.json").read_text())["images"] == 20
    path = runs / "plain" / "directions_mean.pt"
    mode(runs / "plain", "directions", "--fit", "mean", "--max", "250")
    held = torch.load(path, weights_only=True)
    assert held["provenance"]["max"] == 250 and held["count"].sum(1).max() == 250
    mode(runs / "plain", "edit", "test:0", "--attr", "Smiling=1", "--kind", "mean", "--out", str(tmp_path / "edit.png"))
    assert "fitted to 250 training faces only" in capsys.readouterr().out
    path.unlink()


def same(a: Path, b: Path) -> bool:
    return bool((np.asarray(Image.open(a)) == np.asarray(Image.open(b))).all())


def test_photo_keeps_unchanged_pixels(runs: Path, photo: str, tmp_path: Path) -> None:
    out = ["--eyes", EYES, "--out", str(tmp_path / "edit.png")]
    mode(runs / "plain", "edit", photo, "--attr", "Smiling=+0.0", *out)
    assert same(Path(photo), tmp_path / "edit_me.png")
    mode(runs / "plain", "edit", photo, "--attr", "Smiling=+3.0", *out)
    assert not same(Path(photo), tmp_path / "edit_me.png")


@pytest.mark.parametrize(
    ("run", "words", "message"),
    [
        ("plain", ["classify"], "trained without labels"),
        ("labels", ["edit", "--attr", "Smilling=1"], "unknown here; the nearest names are"),
        ("plain", ["edit", "--attr", "happy", "--kind", "label"], "trained without labels; use --kind ols"),
        ("labels", ["edit", "--attr", "Male=1", "--kind", "label"], "the run was trained with angry, .* only"),
        ("labels", ["edit", "--attr", "happy", "--gain", "auto"], "this edit changes the label, give a number"),
        ("labels", ["edit", "--attr", "happy", "--gain", "much"], "--gain much: expected a number or auto"),
        (
            "labels",
            ["edit", "--attr", "happy", "--kind", "ols", "--levels", "9"],
            "--levels 9: expected numbers from 1",
        ),
        ("labels", ["edit", "--attr", "happy", "--kind", "ols", "--levels", "2,x"], "--levels 2,x: expected numbers"),
        ("labels", ["edit", "--attr", "happy", "--keep", "sad"], "--keep and --levels work along directions only"),
        ("labels", ["edit", "--attr", "happy", "--levels", "2"], "--keep and --levels work along directions only"),
        ("plain", ["edit", "--attr", "Smiling=+1.0", "--keep", "Smiling"], "--keep Smiling: spans the whole"),
        ("labels", ["draw", "--attr", "angryy"], "nearest names are angry"),
    ],
)
def test_wrong_requests_are_user_errors(runs: Path, capsys, run: str, words: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as leaving:
        mode(runs / run, *words)
    assert leaving.value.code == 2 and re.search(message, capsys.readouterr().err)


def test_error_for_old_directions_names_the_refit_command(runs: Path, capsys) -> None:
    mode(runs / "plain", "directions")
    path = runs / "plain" / "directions_ols.pt"
    held = torch.load(path, weights_only=True)
    held["provenance"]["sha256"] = "0" * 64
    torch.save(held, path)
    with pytest.raises(SystemExit):
        mode(runs / "plain", "edit", "test:0", "--attr", "Smiling=1")
    assert "refit with python flow/sample.py directions" in capsys.readouterr().err
    path.unlink()

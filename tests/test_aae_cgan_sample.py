"""Every mode of aae_cgan/sample.py on a run of a few steps; what an export, a strip and an edit promise."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import write_folders
from PIL import Image

from aae_cgan import sample, train
from aae_cgan.config import Config
from aae_cgan.edit import edit
from aae_cgan.figures import diversity, edit_table, mmd
from aae_cgan.photos import span
from aae_cgan.train import AAECGAN
from data import build_faces, synthetic
from engine import UserError, load
from engine.grids import to_uint8
from evaluation.manifest import read_export, read_manifest

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
EYES = "65.4,65.1,90.6,65.1"  # of the face that `photo` draws


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aae_cgan") / "run"
    config = Path(__file__).parent.parent / "configs/aae_cgan/synthetic32.yaml"
    train.main(["--config", str(config), "--run-dir", str(folder), *SMALL])
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A large grey-bordered photo with a drawn face in it."""
    face = synthetic.render(synthetic.factors(0, np.arange(1) + 7), 96)[0].transpose(1, 2, 0)
    picture = np.full((140, 180, 3), 90, np.uint8)
    picture[20:116, 30:126] = face
    path = tmp_path_factory.mktemp("photo") / "me.png"
    Image.fromarray(picture).save(path)
    return path


def call(run_dir: Path, mode: str, *options: str) -> None:
    sample.main([mode, "--run-dir", str(run_dir), "--device", "cpu", *options])


def facts(path: Path) -> dict:
    return json.loads(path.with_suffix(".json").read_text())


def test_training_leaves_its_pictures(run_dir):
    names = {path.name for path in (run_dir / "samples").iterdir()}
    assert {"step_0000008_strip.png", "step_0000008_prior.png", "step_0000008_reconstruction.png"} <= names
    row = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()][-1]
    assert {"val/l1", "val/psnr", "val/gap_label", "val/guide_edit", "val/code_std"} <= set(row)


@pytest.mark.parametrize(
    ("mode", "options", "files"),
    [
        ("strip", ["--n", "3", "--recon"], ["strip.png", "strip.json"]),
        ("strip", ["test:4", "val:2", "--from", "sad"], ["strip.png"]),
        ("edit", ["--attr", "happy=0.7", "test:3", "test:5"], ["edit.png", "edit.json"]),
        ("edit", ["--attr", "happy=0", "--n", "2", "--detail", "decode", "--strength", "1.5"], ["edit.png"]),
        ("slider", ["--all", "--steps", "3"], ["slider.png", "slider.json", "slider.webp"]),
        ("slider", ["test:3", "--attr", "happy=0.5", "surprise=0.5", "--gif", "--detail", "blend"], ["slider.gif"]),
        ("slider", ["--attr", "happy", "--steps", "2"], ["slider.png"]),
        ("prior", ["--n", "9"], ["prior.png", "prior.json"]),
        ("prior", ["--n", "4", "--class", "happy"], ["prior.png"]),
        ("interpolate", ["test:0", "test:9", "--n", "3", "--class", "sad"], ["interpolate.png", "interpolate.webp"]),
        ("recon", ["--n", "3"], ["recon.png", "recon.json"]),
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


def test_own_photo_comes_back_at_its_size(run_dir, photo, tmp_path, capsys):
    call(run_dir, "edit", str(photo), "--attr", "happy", "--eyes", EYES, "--out", str(tmp_path / "e.png"))
    edited = np.asarray(Image.open(tmp_path / "e_me.png"))
    assert edited.shape == (140, 180, 3)
    assert "read by the guide" in capsys.readouterr().out
    call(
        run_dir, "edit", str(photo), "--attr", "happy", "--strength", "0", "--eyes", EYES, "--from", "sad",
        "--out", str(tmp_path / "z.png"),
    )  # fmt: skip
    assert np.array_equal(np.asarray(Image.open(tmp_path / "z_me.png")), np.asarray(Image.open(photo)))


def test_a_photo_after_the_wish_is_the_slider_s_face(run_dir, photo, tmp_path):
    """argparse gives both words to --attr."""
    for words in (["--attr", "happy", str(photo)], [str(photo), "--attr", "happy"]):
        out = tmp_path / f"{len(words[0])}.png"
        call(run_dir, "slider", *words, "--steps", "2", "--eyes", EYES, "--out", str(out))
        assert facts(out)["face"] == str(photo)
    call(run_dir, "slider", "--attr", "happy", "test:5", "--steps", "2", "--out", str(tmp_path / "t.png"))
    assert facts(tmp_path / "t.png")["face"] == "test:5"


def test_strength_zero_blended_is_the_photo_and_half_is_on_the_way(run_dir):
    method = load(run_dir, Config, AAECGAN, device="cpu")
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    source, target = torch.eye(7)[[0, 1]], torch.eye(7)[[3, 3]]
    with torch.inference_mode():
        assert torch.equal(edit(method, x, source, target, 0.0, "blend"), x)
        half = edit(method, x, source, target, 0.5, "decode")
        assert torch.equal(half, method.decode(method.encode(x), (source + target) / 2))


def test_export_of_edits_holds_sources_and_true_answers(run_dir, tmp_path):
    call(run_dir, "export", "--what", "edit", "--n", "6", "--strength", "0.5:1:2", "--out", str(tmp_path / "out"))
    rows = read_manifest(tmp_path / "out")
    assert len(rows) == 6 * 7 * 2 and {row.target for row in rows} == set(COLUMNS)
    assert all(bool(row.truth) == (row.strength == 1) for row in rows)
    export = read_export(tmp_path / "out")
    assert export["base"] == "reconstruction" and list(export["guides"]) == ["own guide"]
    # The answer to a face's own class is the face itself.
    own = next(row for row in rows if row.target == row.source_label and row.truth)
    pixels = [np.asarray(Image.open(tmp_path / "out" / name), int) for name in (own.truth, own.source)]
    assert np.abs(pixels[0] - pixels[1]).max() <= 1
    assert own.source_index.startswith("synthetic:test:")


def test_other_exports_and_a_repeat(run_dir, tmp_path):
    for what, count in (("reconstruction", 5), ("sample", 9)):
        for folder in ("a", "b"):
            call(run_dir, "export", "--what", what, "--n", str(count), "--out", str(tmp_path / what / folder))
        rows = read_manifest(tmp_path / what / "a")
        assert len(rows) == count and all(row.kind == what for row in rows)
        assert (tmp_path / what / "a" / rows[0].file).read_bytes() == (
            tmp_path / what / "b" / rows[0].file
        ).read_bytes()
    call(run_dir, "export", "--what", "edit", "--n", "3", "--attr", "happy=0.7", "--out", str(tmp_path / "one"))
    rows = read_manifest(tmp_path / "one")
    assert {(row.target, row.strength) for row in rows} == {("happy", 0.7)} and all(row.truth for row in rows)


class FakeJudge:
    """Says that every picture shows the class whose number its mean grey is nearest to."""

    names = ["neutral", *COLUMNS[:-1], "contempt"]  # another order than the run's

    def logits(self, images8: torch.Tensor) -> torch.Tensor:
        self.seen = images8
        level = images8.float().mean((1, 2, 3)) / 255 * 6
        return -10 * (level[:, None] - torch.arange(8)).abs()

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.softmax(1)


def test_strip_says_what_the_judge_sees(run_dir, tmp_path, monkeypatch, capsys):
    judge = FakeJudge()
    monkeypatch.setattr("evaluation.classifier.load", lambda *args, **kwargs: judge)
    call(run_dir, "strip", "--n", "4", "--judge", "j", "--out", str(tmp_path / "s.png"))
    said = facts(tmp_path / "s.png")["verdicts"]
    assert [len(row) for row in said] == [8] * 4
    told = judge.logits(judge.seen).argmax(1)
    expected = [judge.names[k] for k in told.tolist()]
    assert [text.split(" ")[0] for row in said for text in row] == expected
    assert "edits as asked" in capsys.readouterr().out
    call(run_dir, "report", "--n", "20", "--judge", "j", "--out", str(tmp_path / "r.png"))


def test_a_strip_keeps_its_order_for_a_folder_sorted_otherwise(tmp_path, monkeypatch):
    """Columns come as ever, each under its own label; captions are the judge's words about the pixels shown."""
    classes = ["sad", "neutral", "contempt", "happy", "angry"]
    write_folders(tmp_path / "faces", classes, per_group=12, size=32)
    config, run = Path(__file__).parent.parent / "configs/aae_cgan/folder64.yaml", tmp_path / "run"
    small = ["model.latent_dim=16", "data.image_size=32", f"data.root={tmp_path / 'faces'}"]
    small.append(f"data.classes=[{', '.join(classes)}]")
    train.main(["--config", str(config), "--run-dir", str(run), *SMALL[3:], *small])
    seen, decode = [], sample.Session.decode
    monkeypatch.setattr(sample.Session, "decode", lambda self, z, y: (seen.append(y), decode(self, z, y))[1])
    judge = FakeJudge()
    monkeypatch.setattr("evaluation.classifier.load", lambda *args, **kwargs: judge)
    grids = []
    monkeypatch.setattr(sample.Session, "write", lambda self, grid, *a, **k: grids.append(grid))
    call(run, "strip", "--n", "3", "--judge", "j")
    (grid,) = grids
    columns = ["Generation Base", "Angry", "Happy", "Sad", "Neutral", "Contempt"]
    assert grid.columns == columns and grid.images.shape[:2] == (3, 6)
    asked = [classes[k].capitalize() for k in seen[-1].argmax(1).tolist()]
    assert asked == columns[1:] * 3
    shown = judge.logits(torch.from_numpy(to_uint8(grid.images.flatten(0, 1))))
    known = [judge.names.index(name) for name in classes]
    told = [classes[k] for k in judge.probabilities(shown)[:, known].argmax(1).tolist()]
    assert [tile.split(" ")[0] for row in grid.tiles for tile in row] == told


@pytest.mark.parametrize(
    ("mode", "options", "sentence"),
    [
        ("strip", ["test:99999"], "expected test:0 to test:39"),
        ("edit", ["--attr", "hapy", "test:1"], "'hapy' is unknown here"),
        ("edit", ["--attr", "Smiling=1", "test:1"], "this run shows angry"),
        ("prior", ["--class", "cross"], "--class cross: this run shows"),
        ("slider", ["test:1"], "slider: say where to"),
        ("slider", ["test:1", "--attr", "happy", "me.jpg"], "slider: takes one face and was given test:1, me.jpg"),
        ("slider", ["--attr", "me.jpg"], "me.jpg"),
        ("slider", ["test:1", "--attr", "happy", "--range", "x"], "--range x: expected from:to"),
        ("export", ["--what", "edit"], "give a folder with --out"),
        ("export", ["--what", "edit", "--attr", "x", "--n", "2", "--out", "/tmp/never"], "'x' is unknown"),
    ],
)
def test_faults_are_sentences(run_dir, mode, options, sentence, capsys):
    with pytest.raises(SystemExit) as left:
        call(run_dir, mode, *options)
    assert left.value.code == 2 and sentence in capsys.readouterr().err


def test_loads_without_its_data(run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    method = load(tmp_path / "run", Config, AAECGAN, device="cpu")
    assert method.linear.basis.abs().sum() > 0 and method.linear is method.encoder.linear
    faces = build_faces(method.cfg.data)
    x = faces.test.fixed(4)["image"]
    straight = method.linear.decode(method.linear.encode(x))
    shown = method.decode(method.encode(x), torch.eye(7)[:4])
    assert (shown - straight).abs().mean() < 0.03  # it had a few steps


@pytest.mark.slow
def test_a_run_of_attributes(run_dir, tmp_path):
    config, run = Path(__file__).parent.parent / "configs/aae_cgan/synthetic32.yaml", tmp_path / "run"
    asked = ["data.attributes=[Smiling, Eyeglasses, Male]", "model.condition=attributes"]
    train.main(["--config", str(config), "--run-dir", str(run), *SMALL, *asked, "train.total_steps=4"])
    call(run, "strip", "--n", "2")
    call(run, "edit", "--attr", "Smiling=1", "Eyeglasses=flip", "--n", "2")
    call(run, "slider", "test:1", "--attr", "Smiling=flip", "--steps", "3")
    call(run, "prior", "--n", "4")
    call(run, "latent")
    call(run, "export", "--what", "edit", "--n", "4", "--out", str(tmp_path / "all"))
    rows = read_manifest(tmp_path / "all")
    assert len(rows) == 12 and all(row.truth for row in rows)
    assert {row.target.split("=")[0] for row in rows} == {"Smiling", "Eyeglasses", "Male"}
    call(run, "export", "--what", "sample", "--n", "4", "--out", str(tmp_path / "drawn"))
    assert all(row.target.count("=") == 3 for row in read_manifest(tmp_path / "drawn"))


# Figures.


def test_edit_table_leaves_own_class_out():
    shown = torch.eye(3)[[0, 1, 1, 2]]
    table, accuracy = edit_table(shown, torch.tensor([0, 0, 2, 0]), torch.tensor([0, 1, 1, 1]), 3)
    assert accuracy[1] == pytest.approx(2 / 3) and accuracy[0].isnan() and table[1, 2] == pytest.approx(1 / 3)


def test_mmd_and_diversity_tell_collapse():
    torch.manual_seed(0)
    a, b = torch.randn(400, 8), torch.randn(400, 8)
    assert abs(mmd(a, b)) < 0.01 < mmd(a, 0.3 * b)
    x = torch.randn(20, 1, 8, 8)
    assert diversity(x[:1].expand(20, -1, -1, -1), torch.zeros(20)) == 0 < diversity(x, torch.zeros(20))


def test_words_of_the_command_line():
    assert span("-0.5:1.5") == (-0.5, 1.5)
    with pytest.raises(UserError):
        span("1")

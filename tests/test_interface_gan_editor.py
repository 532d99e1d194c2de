"""The editor and the modes of interface_gan on a run of four steps, with boundaries of scores that are linear in w."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from data import synthetic
from engine import UserError
from engine.checkpoint import load_fields, save_fields
from interface_gan import inversions
from interface_gan.boundary import Boundaries, boundaries_path, fit_boundaries, load_boundaries
from interface_gan.codes import draw_z, map_z
from interface_gan.editor import Editor, Options
from interface_gan.project import Options as Steps
from interface_gan.sample import main as sample
from interface_gan.score import score_codes
from interface_gan.train import main as train
from tests.editor_contract import check

pytestmark = pytest.mark.slow
NAMES = ["happy", "neutral", "Smiling", "Male"]
NUM, LATENT = 2000, 8
CONFIG = """
data: {dataset: synthetic, image_size: 32, num_train: 64, num_val: 16, num_test: 16}
model: {latent_dim: 8, mapping_layers: 1, channel_base: 256, channel_max: 16}
loss: {lambda_path: 0, mixing_prob: 0}
train: {total_steps: 4, batch_size: 8, validate_every: 0, sample_every: 4, save_every: 4, sample_size: 4, lr_warmup: 0}
"""


class LinearGuide:
    """Says of a picture how red, green, blue and bright it is: no faces are needed to read that."""

    names, classes, attributes = NAMES, NAMES[:2], NAMES[2:]
    device, role = torch.device("cpu"), "guide"
    origin = SimpleNamespace(run="runs/guide", step=1, sha256="guide")

    def __call__(self, x: Tensor) -> Tensor:
        means = torch.cat([x.mean((2, 3)), x[:, :, :16].mean((1, 2, 3))[:, None]], 1)  # (N, 4)
        return 50 * (means - self.centre)

    centre = torch.zeros(4)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("interface_gan")
    (folder / "tiny.yaml").write_text(CONFIG)
    train(["--config", str(folder / "tiny.yaml"), "--run-dir", str(folder / "run")])
    editor = Editor(folder / "run", device="cpu")
    guide = LinearGuide()
    z = draw_z(NUM, LATENT, 0)
    guide.centre = torch.zeros(4)
    first = score_codes(editor.generator, "centre", guide, editor.split("train"), NUM, 0, folder)
    LinearGuide.centre = first.logits.median(0).values / 50
    scores = score_codes(
        editor.generator, editor.method.origin.sha256, guide, editor.split("train"), NUM, 0, folder / "run" / "scores"
    )
    for space, codes in (("w", map_z(editor.generator, z)), ("z", z)):
        save_fields(fit_boundaries(codes, scores, space), boundaries_path(folder / "run", space, "ridge_rank"))
    return folder / "run"


@pytest.fixture(autouse=True)
def short_inversions(monkeypatch):
    """Eight steps instead of 250, and the nearest of 64 start codes instead of 2,000."""
    few = Steps(starts=1, steps_w=4, steps_plus=4)
    monkeypatch.setattr(inversions, "DEFAULT", few)
    monkeypatch.setattr("interface_gan.project.STARTS_NUM", 64)
    monkeypatch.setattr("interface_gan.editor.Editor.num_reference", 4)
    monkeypatch.setattr("interface_gan.sample.REFERENCE_FACES", 4)
    monkeypatch.setattr(Editor, "guide", lambda self: LinearGuide())


@pytest.fixture
def editor(run) -> Editor:
    return Editor(run, device="cpu")


def test_editor_contract(editor, photo):
    check(editor, "Smiling=1", photo)


def test_faces_and_photos_are_inverted_only_once(run, editor, monkeypatch):
    faces = editor.take("test", [0, 3])
    first = editor.codes(faces)["ws"]
    assert first.shape == (2, 8, LATENT) and len(list((run / "inversions").glob("*.npy"))) >= 2
    monkeypatch.setattr(inversions, "project", lambda *a: pytest.fail("inverted again"))
    again = Editor(run, device="cpu")
    assert torch.equal(again.codes(again.take("test", [3, 0]))["ws"], first[[1, 0]])


def test_an_edit_changes_only_the_given_layers(run):
    editor = Editor(run, Options(layers="2-4"), device="cpu")
    faces = editor.draw([1, 2])
    before, after = editor.codes(faces)["ws"], editor.target(faces, editor.parse("Smiling=+1.0"))["ws"]
    moved = (before != after).any(2).any(0)
    assert moved.tolist() == [False, False, True, True, True, False, False, False]
    reading = editor.boundaries("w")
    row = reading.row("Smiling")
    change = reading.read(after[:, 2:5].mean(1)) - reading.read(before[:, 2:5].mean(1))
    assert torch.allclose(change[:, row], reading.sigma[row].expand(2), rtol=1e-3)
    with pytest.raises(UserError, match="--layers 5-9"):
        Editor(run, Options(layers="5-9"), device="cpu").target(faces, editor.parse("Smiling=1"))


def test_a_probability_request_reaches_the_guide_probability(editor):
    faces, guide = editor.draw(range(6)), LinearGuide()
    after = editor.edit(faces, editor.parse("Smiling=p0.7"))[0]
    p = guide(after).sigmoid()[:, 2]
    assert ((p - 0.7).abs() < 0.05).float().mean() > 0.5
    with pytest.raises(UserError, match="one item only"):
        editor.edit(faces, editor.parse("Smiling=p0.7 Male=1"))


def test_flip_uses_the_labels_of_the_data(editor):
    faces = editor.take("test", range(8))
    labels = editor.labels(faces)[:, editor.label_names().index("Male")]
    held = editor.boundaries("w")
    row = held.row("Male")
    step = editor.target(faces, editor.parse("Male=flip"))["ws"] - editor.codes(faces)["ws"]
    change = (held.read(step.mean(1)) - held.offset)[:, row]
    assert ((change >= -1e-4) | (labels == 1)).all() and ((change <= 1e-4) | (labels == 0)).all()


def test_generated_faces_are_the_scored_codes(editor):
    z = draw_z(1, LATENT, 5)
    assert torch.equal(editor.codes(editor.draw([5]))["ws"][:, 0], map_z(editor.generator, z))


def test_requests_have_the_names_of_the_guide(editor):
    assert set(editor.attributes) <= {"Smiling", "Male"} and editor.meta["attributes"] == ["Smiling", "Male"]
    faces = editor.take("test", [0, 1])
    column = synthetic.ATTRIBUTES.index("Male")
    known = editor.split("test").take([0, 1])["attr"][:, column]
    assert torch.equal(faces.batch["attr"][:, 1], known.float())


def test_a_run_without_boundaries_names_the_fit_command(run, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.yaml", "meta.json", "checkpoints"):
        (bare / name).symlink_to(run / name)
    editor = Editor(bare, device="cpu")
    with pytest.raises(UserError, match="boundary --run-dir"):
        editor.edit(editor.draw([0]), editor.parse("Smiling=1"))


@pytest.mark.parametrize(
    "words",
    [
        ["walk", "--attr", "Smiling", "--n", "2", "--compare"],
        ["walk", "--attr", "Smiling=-1:1:3", "--n", "2", "--space", "z"],
        ["extremes", "--attr", "Smiling", "--n", "3"],
        ["project", "--n", "2"],
        ["edit", "--attr", "Smiling=flip", "--n", "2", "--detail", "decode"],
        ["edit", "seed:3", "--attr", "Smiling=1", "--move", "transport"],
    ],
)
def test_every_mode_writes_its_files(words, run, tmp_path):
    mode, *rest = words
    sample([mode, "--run-dir", str(run), "--device", "cpu", "--out", str(tmp_path / "x.png"), *rest])
    record = json.loads((tmp_path / "x.json").read_text())
    assert (tmp_path / "x.png").is_file() and record["sha256"] and record["boundaries"]["num"] == NUM


def test_report_real_mode(run, editor, tmp_path, monkeypatch):
    class Judge(LinearGuide):
        def logits(self, images8: Tensor) -> Tensor:
            return LinearGuide.__call__(self, images8.float() / 127.5 - 1)

    monkeypatch.setattr("interface_gan.sample.classifier.load", lambda *a, **k: Judge())
    monkeypatch.setattr("interface_gan.real_report.DEFAULT", Steps(starts=1, steps_w=4, steps_plus=4))
    out, words = tmp_path / "real.json", ["--judge", "runs/judge", "--attr", "Smiling", "--n", "6", "--out"]
    sample(["report-real", "--run-dir", str(run), "--device", "cpu", *words, str(out)])
    found = json.loads(out.read_text())
    flips = found["W+"]["flips"]["Smiling"]
    assert flips["faces"] <= 6 and flips["random"]["cost"] == pytest.approx(flips["least"]["cost"], rel=1e-3)
    assert found["W"]["psnr"] > 5 and flips["least"]["cost"] < flips["paper"]["cost"] * 1.001


def test_an_export_names_its_guide(run, tmp_path):
    out = tmp_path / "edits"
    sample(["export", "--run-dir", str(run), "--what", "edit", "--attr", "Smiling=flip", "--n", "2", "--out", str(out)])
    record = json.loads((out / "export.json").read_text())
    assert record["guides"] == {"runs/guide": "guide"} and len(list(out.glob("truth_base*.png"))) == 2


def test_boundaries_of_other_weights_are_an_error(run):
    with pytest.raises(UserError, match="other weights"):
        load_boundaries(run, "w", "ridge_rank", "other")


def test_after_more_training_the_run_opens_so_that_boundaries_can_be_fitted_again(run, tmp_path):
    later = tmp_path / "later"
    shutil.copytree(run, later)
    path = boundaries_path(later, "w", "ridge_rank")
    held = load_fields(Boundaries, path)
    save_fields(dataclasses.replace(held, provenance=held.provenance | {"sha256": "of earlier weights"}), path)
    editor = Editor(later)
    with pytest.raises(UserError, match="other weights of this run; fit them with"):
        editor.parse("Smiling=flip")
    assert "boundaries" not in editor.facts()


def test_a_judge_is_refused_as_guide(run, tmp_path, monkeypatch, capsys):
    def load(path, role=None, device="auto"):
        assert role == "guide"
        raise UserError(f"{path} is a judge: a judge grades and must not teach")

    monkeypatch.setattr("interface_gan.sample.classifier.load", load)
    with pytest.raises(SystemExit) as left:
        sample(["boundary", "--run-dir", str(run), "--guide", "runs/evaluation/judge"])
    assert left.value.code == 2 and "must not teach" in capsys.readouterr().err

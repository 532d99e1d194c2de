"""a2f from the command line: short runs of all systems on drawn faces, the editor contract, every mode, exports."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from a2f.config import CONFIGS
from a2f.editor import Editor, FaceEditor
from a2f.requests import AttributeTable
from a2f.sample import main
from a2f.train import main as train
from benchmarks.attribute_samples import export_baseline, export_system, requests_of_test_faces
from engine import UserError, load_config
from engine.grids import to_uint8
from evaluation.manifest import read_manifest
from tests.editor_contract import EYES, check

pytestmark = pytest.mark.slow

DATA = """data:
  dataset: synthetic
  image_size: 32
  prior: celeba
  num_train: 300
  num_val: 40
  num_test: 40
  attributes: [Black_Hair, Smiling, Eyeglasses, Blond_Hair, Male]
"""
TRAIN = """{total_steps: 3, batch_size: 8, validate_every: 3, sample_every: 3, save_every: 3, val_images: 8,
  sample_size: 8}"""
SYSTEMS = {
    "cgan": "model: {width: 8, latent_dim: 8}\n",
    "rough": "model: {width: 8, latent_dim: 8}\n",
    "sharp": "model: {width: 8}\n",
    "face": "model: {width: 8, colour_dim: 4}\n",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A run of each system after three steps, trained as a user trains them."""
    folder, found = tmp_path_factory.mktemp("a2f"), {}
    for name, model in SYSTEMS.items():
        before = {"sharp": "rough", "face": "sharp"}.get(name)
        upstream = f"upstream: {{run: {found[before]}}}\n" if before else ""
        path = folder / f"{name}.yaml"
        path.write_text(f"system: {name}\n{DATA}{model}train: {TRAIN}\n{upstream}")
        found[name] = folder / "runs" / name
        train(["--config", str(path), "--run-dir", str(found[name])])
    return found


def opened(run: Path, **options) -> Editor:
    return Editor.of(run)(run, **options)


@pytest.mark.parametrize("system", ["cgan", "rough", "sharp", "face"])
def test_editor_contract(runs, system, photo):
    editor = opened(runs[system])
    for net in (m for m in editor.method.modules() if hasattr(m, "gain") and m.gain is not None):
        torch.nn.init.normal_(net.gain.weight, std=0.2)  # three steps have not taught it to listen
    request = "Smiling=1 Eyeglasses=1" if system != "rough" else "Eyeglasses=1 Smiling=1"
    check(editor, request, photo)


def test_runs_have_samples_upstream_facts_and_guides(runs):
    for name in ("cgan", "rough", "sharp", "face"):
        assert (runs[name] / "attribute_table.npz").is_file()
        samples = {p.name.partition("_")[2].partition("_")[2] for p in (runs[name] / "samples").glob("*.png")}
        assert {"requests.png", "toggle.png", "real.png"} <= samples
    saved = load_config(CONFIGS["face"], runs["face"] / "config.yaml")
    assert saved.upstream.step == 3 and len(saved.upstream.sha256) == 64
    assert saved.rough.latent_dim == 8 and saved.sharp.width == 8
    editor = opened(runs["face"])
    assert set(editor.guides()) == {"encoder", "decoder", "prior", "sharp"}
    assert opened(runs["sharp"]).guides()["decoder"] == editor.guides()["decoder"]
    assert opened(runs["rough"]).attributes == ["Smiling", "Eyeglasses", "Male"]


def test_generated_faces_have_the_requested_attributes(runs):
    editor = opened(runs["cgan"])
    code = editor.draw(range(40), editor.parse("Male=0 Smiling=1 Eyeglasses=1")).code
    at = {name: code["attr"][:, editor.attributes.index(name)] for name in editor.attributes}
    assert (at["Male"] == 0).all() and (at["Smiling"] == 1).all() and (at["Eyeglasses"] == 1).all()
    assert ((at["Black_Hair"] + at["Blond_Hair"]) <= 1).all() and at["Black_Hair"].std() > 0
    blond = editor.draw([7], editor.parse("Black_Hair=1"))
    edited = editor.target(blond, editor.parse("Blond_Hair=1"))
    assert edited["attr"][0, editor.attributes.index("Black_Hair")] == 0
    with pytest.raises(UserError, match="these exclude each other"):
        editor.draw([0], editor.parse("Black_Hair=1 Blond_Hair=1"))


def test_truncation_scales_the_noise(runs):
    one, half = opened(runs["cgan"]), opened(runs["cgan"])
    half.options = type(half.options)(truncation=0.5)
    assert torch.allclose(0.5 * one.noise([1, 2]), half.noise([1, 2]))


def test_a_colour_edit_does_not_change_the_sketch(runs):
    editor = opened(runs["face"])
    faces = editor.subjects(["test:0", "test:1"])
    code = editor.codes(faces)
    assert editor.target(faces, editor.parse("Blond_Hair=1"))["sketch"] is code["sketch"]
    moved = editor.target(faces, editor.parse("Eyeglasses=flip"))
    assert moved["colour"] is code["colour"] and moved["sketch"] is not code["sketch"]
    same = editor.target(faces, editor.parse("Eyeglasses=flip"))
    assert torch.equal(same["sketch"], moved["sketch"])


def test_unknown_attributes_are_filled_in_with_a_note(runs, photo):
    editor = opened(runs["face"])
    faces = editor.subjects([photo], EYES, "Male=1")
    attr = editor.codes(faces)["attr"][0]
    table = AttributeTable.load(runs["face"] / "attribute_table.npz")
    male = table.rows[:, editor.attributes.index("Male")] == 1
    commonest = table.rows[male][np.argmax(table.counts[male])]
    assert attr.tolist() == commonest.tolist()


MODE_ARGUMENTS = {
    "cgan": ["draw --attr Male=0 Smiling=1 Eyeglasses=1 --n 16 --seed 3", "grid --rows 3 --n 4", "toggle",
             "slider seed:3 --attr Smiling=1", "interpolate seed:1 seed:2 --n 5", "strip --n 3",
             "edit seed:1 --attr Smiling=flip --detail decode"],
    "rough": ["draw --n 4", "grid --rows 2 --n 3", "recon --n 4", "toggle"],
    "sharp": ["draw --n 4 --attr Eyeglasses=1", "grid --rows 2 --n 3"],
    "face": ["draw --attr Male=0 Smiling=1 --n 4", "stages --n 4", "toggle --image test:3", "recon --n 4",
             "edit test:0 test:1 --attr Eyeglasses=1", "interpolate seed:1 test:2 --n 5"],
}  # fmt: skip


@pytest.mark.parametrize("system", list(MODE_ARGUMENTS))
def test_every_mode_writes_its_files(runs, system, tmp_path):
    for text in MODE_ARGUMENTS[system]:
        words = text.split()
        out = tmp_path / words[0]
        main([words[0], "--run-dir", str(runs[system]), "--out", str(out), *words[1:]])
        pictures = [p for p in out.iterdir() if p.suffix == ".png"]
        assert pictures, text
        record = json.loads(pictures[0].with_suffix(".json").read_text())
        assert record["sha256"] and "truncation" in record


def drawing(path: Path) -> Path:
    image = Image.new("RGB", (300, 300), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse([60, 40, 240, 270], outline="black", width=6)
    draw.arc([110, 170, 190, 220], 20, 160, fill="black", width=6)
    image.save(path)
    return path


def test_sketch_mode_makes_faces_from_drawings(runs, tmp_path, capsys):
    path = drawing(tmp_path / "me.png")
    for way in ("redraw", "direct"):
        words = [
            "sketch",
            "--run-dir",
            str(runs["face"]),
            "--path",
            way,
            "--n",
            "3",
            "--out",
            str(tmp_path / f"{way}.png"),
        ]
        main([*words, "--attr", "Male=0", "Smiling=1", str(path)])
        assert Image.open(tmp_path / f"{way}.png").width > 5 * 64
    for system, text in (("cgan", "expected a run of system face"), ("face", "expected at least one drawing")):
        with pytest.raises(SystemExit) as done:
            main(["sketch", "--run-dir", str(runs[system]), *([str(path)] if system == "cgan" else [])])
        assert done.value.code == 2 and text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("system", "entry"), [("cgan", "noise"), ("face", "noise"), ("face", "sketch"), ("rough", "noise")]
)
def test_evaluation_reads_exports(runs, system, entry, tmp_path):
    main(["samples", "--run-dir", str(runs[system]), "--n", "10", "--entry", entry, "--out", str(tmp_path / "a")])
    rows, editor = read_manifest(tmp_path / "a"), opened(runs[system])
    assert len(rows) == 10 and all(len(row.requests()) == len(editor.attributes) for row in rows)
    asked = editor.completed(editor.take("test", [4 * i for i in range(10)]).batch)
    for row, attr in zip(rows, asked, strict=True):
        assert [row.requests()[name] for name in editor.attributes] == [str(int(v)) for v in attr]
    export = json.loads((tmp_path / "a" / "export.json").read_text())
    assert export["entry"] == entry and set(export["guides"]) == set(editor.guides())
    if system == "face":  # a picture is a function of its seed and request, not of how many are made
        main(["samples", "--run-dir", str(runs[system]), "--n", "40", "--entry", entry, "--out", str(tmp_path / "b")])
        one = np.asarray(Image.open(tmp_path / "a" / "sample_000000.png")).astype(int)
        two = np.asarray(Image.open(tmp_path / "b" / "sample_000000.png")).astype(int)
        assert np.abs(one - two).max() <= 1


def test_baselines_are_faces_of_the_request_and_their_mean(runs, tmp_path):
    editor = opened(runs["cgan"])
    export_system(runs["cgan"], "noise", 12, 0, tmp_path / "like")
    requests = requests_of_test_faces(editor.faces, editor.attributes, 12)
    for row, request in zip(read_manifest(tmp_path / "like"), requests.tolist(), strict=True):
        assert [float(row.requests()[name]) for name in editor.attributes] == request
    train, attr = editor.split("train"), editor.split("train").labels["attr"]
    pictures = to_uint8(train.take(np.arange(len(train)))["image"])
    for kind in ("retrieval", "mean-request"):
        export_baseline(kind, requests, editor.attributes, editor.faces, 0, tmp_path / kind)
        for row in read_manifest(tmp_path / kind):
            found = np.asarray(Image.open(tmp_path / kind / row.file)).transpose(2, 0, 1).astype(int)
            wanted = [float(row.requests()[name]) for name in editor.attributes]
            distance = np.abs(attr - wanted).sum(1)
            group = np.flatnonzero(distance == distance.min())
            if kind == "retrieval":
                assert any((pictures[k] == found).all() for k in group)
            else:
                assert np.abs(pictures[group].mean(0) - found).max() <= 1


def test_face_code_has_the_sketch_of_its_photo(runs):
    editor = opened(runs["face"])
    assert isinstance(editor, FaceEditor)
    faces = editor.take("test", [0, 1])
    code = editor.codes(faces)
    assert torch.equal(code["sketch"], editor.method.chain.sketch(faces.images))

"""gcgan from the command line on drawn faces: tiny runs of each system, the editor's contract, every mode, errors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from editor_contract import EYES, camera_photo, check
from PIL import Image

import families
from data import DataConfig, synthetic
from data.landmarks import GROUPS
from editing.benchmark import benchmark_faces, class_targets, export_benchmark
from editing.editor import Editor
from engine import UserError
from evaluation.manifest import read_export, read_manifest
from gcgan import sample, train
from gcgan.editor import GCGANEditor, GeometryOptions, StarGANEditor

pytestmark = pytest.mark.slow  # whole runs

DATA = "data: {dataset: synthetic, image_size: 32, num_train: 120, num_val: 40, num_test: 70, balanced: true"
SMALL = "width: 4, blocks: 1, critic_width: 4"
CADENCE = (
    "batch_size: 8, log_every: 2, validate_every: 6, sample_every: 6, save_every: 6, val_images: 16, sample_size: 8"
)
SYSTEMS = {
    "stargan": f"system: stargan\n{DATA}}}\nmodel: {{{SMALL}, mirror: true}}\ntrain: {{total_steps: 12, {CADENCE}}}\n",
    "stargan_attr": (
        "system: stargan\ndata: {dataset: celeba, root: ROOT, image_size: 32, crop: full, "
        "attributes: [Smiling, Black_Hair, Blond_Hair, Male]}\n"
        f"model: {{{SMALL}, output: mask, critic: class}}\n"
        f"loss: {{gan: wgan, n_critic: 2, lambda_mismatch: 0}}\ntrain: {{total_steps: 12, {CADENCE}}}\n"
    ),
    "gcgan": (
        f"system: gcgan\n{DATA}, pair: true}}\nmodel: {{{SMALL}}}\nloss: {{geometry_steps: 6}}\n"
        f"train: {{total_steps: 12, {CADENCE}}}\n"
    ),
}


def celeba(folder: Path) -> Path:
    """Drawn faces in CelebA's layout, without persons or landmarks."""
    (folder / "img_align_celeba").mkdir(parents=True)
    f = synthetic.factors(0, np.arange(60))
    names, table = list(synthetic.ATTRIBUTES), synthetic.attributes(f)
    lines = ["60", " ".join(names)]
    for i, face in enumerate(synthetic.render(f, 48).transpose(0, 2, 3, 1)):
        Image.fromarray(face).save(folder / "img_align_celeba" / f"{i + 1:06d}.jpg")
        lines.append(f"{i + 1:06d}.jpg " + " ".join("1" if v == 1 else "-1" for v in table[i]))
    (folder / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module", params=list(SYSTEMS))
def run_dir(request, tmp_path_factory) -> Path:
    """A run of each system, made by the command line."""
    folder = tmp_path_factory.mktemp(request.param)
    config = folder / "config_in.yaml"
    root = celeba(folder / "faces") if "ROOT" in SYSTEMS[request.param] else folder
    config.write_text(SYSTEMS[request.param].replace("ROOT", str(root)))
    out = folder / request.param
    train.main(["--config", str(config), "--run-dir", str(out)])
    environment = json.loads((out / "environment.json").read_text())
    environment[-1]["family"] = "gcgan"  # the name of the folder of train.py, which a test does not run
    (out / "environment.json").write_text(json.dumps(environment))
    method_weights = next((out / "checkpoints").glob("*.pt"))
    assert method_weights.is_file()
    return out


def sharpened(editor: Editor) -> Editor:
    """Weights that change something: twelve steps move an edit by less than a grey level."""
    torch.manual_seed(0)
    generator = editor.method.ema_generator.module
    torch.nn.init.normal_(generator.out.weight, std=0.2)
    for name, p in generator.named_parameters():
        if "affine.weight" in name:
            torch.nn.init.normal_(p, std=0.5)
    return editor


def say(*words: object) -> None:
    sample.main([str(word) for word in words])


def fails(*words: object) -> None:
    with pytest.raises(SystemExit) as stop:
        say(*words)
    assert stop.value.code == 2


def request_of(run_dir: Path) -> str:
    return "Smiling=flip" if run_dir.name == "stargan_attr" else "happy"


def test_the_editor_keeps_the_contract(run_dir, tmp_path):
    editor = sharpened(families.open_editor(run_dir))
    assert isinstance(editor, GCGANEditor if run_dir.name == "gcgan" else StarGANEditor)
    request = "Smiling=1" if run_dir.name == "stargan_attr" else "happy"
    check(editor, request, camera_photo(tmp_path / "camera.png"))


def test_every_mode_writes_a_picture_and_how_it_was_made(run_dir, tmp_path, capsys):
    at = ("--run-dir", run_dir)
    photo = camera_photo(tmp_path / "camera.png")
    say(
        "edit",
        *at,
        "--attr",
        request_of(run_dir).replace("flip", "1"),
        photo,
        "--eyes",
        EYES,
        "--out",
        tmp_path / "edit",
    )
    say("strip", *at, "--n", 2, "--out", tmp_path / "strip.png")
    say("slider", *at, "test:1", "--attr", request_of(run_dir), "--strength", "0:1:3", "--out", tmp_path / "slider.png")
    say("recon", *at, "--n", 2, "--out", tmp_path / "recon.png")
    say("sheet", *at, "--n", 2, "--noise-std", 0.05, "--out", tmp_path / "sheet.png")
    say("curve", *at, "--out", tmp_path / "curve.png")
    for name in ("strip", "slider", "recon", "sheet", "curve"):
        assert (tmp_path / f"{name}.png").is_file() and "sha256" in json.loads((tmp_path / f"{name}.json").read_text())
    tiles = json.loads((tmp_path / "sheet.json").read_text())["critic_captions"]
    assert all(text.startswith("D ") for row in tiles for text in row)
    assert {"step_0000012_edits.png"} <= {p.name for p in (run_dir / "samples").iterdir()}


def test_hair_colours_exclude_each_other_on_a_sheet(run_dir):
    from gcgan.modes import sheet_requests

    if run_dir.name != "stargan_attr":
        assert len(sheet_requests(families.open_editor(run_dir))) == 7
        return
    editor = families.open_editor(run_dir)
    requests = sheet_requests(editor)
    assert [r.names[0] for r in requests] == ["Black_Hair", "Blond_Hair", "Smiling", "Male"]
    target = editor.target(editor.take("test", [0]), requests[0])["c"]
    columns = [editor.method.names.index(name) for name in ("Black_Hair", "Blond_Hair")]
    assert target[0, columns].tolist() == [1.0, 0.0]


def test_an_export_is_what_the_judge_reads(run_dir, tmp_path):
    say("export", "--run-dir", run_dir, "--what", "edit", "--n", 3, "--out", tmp_path / "edits")
    edits = [row for row in read_manifest(tmp_path / "edits") if row.kind == "edit"]
    drawn = run_dir.name != "stargan_attr"
    assert len(edits) == 3 * (7 if drawn else 4)
    assert all(bool(row.truth) == drawn for row in edits)


def test_strength_runs_from_the_own_to_the_target_label(run_dir):
    editor = sharpened(families.open_editor(run_dir))
    faces = editor.take("test", [0, 1])
    to = editor.parse(request_of(run_dir))
    code, target = editor.codes(faces), editor.target(faces, to)
    key = "points" if run_dir.name == "gcgan" else "c"
    assert target["x"] is code["x"] and not torch.equal(target[key], code[key])
    half = editor.edit(faces, to, [0.5])[0]
    whole = editor.images(code | {key: torch.lerp(code[key], target[key], 0.5)})
    assert torch.allclose(half, whole, atol=1e-5)
    if run_dir.name == "gcgan":  # the way of the landmarks: E(g + s (g' - g))
        method, g = editor.method, code["points"]
        z = method.encoder(g + 0.5 * (target["points"] - g))
        assert torch.allclose(half, method.edit(code["x"], z), atol=1e-5)


def test_transfer_has_the_truth_of_the_driver_s_muscles(run_dir, tmp_path):
    at = ("--run-dir", run_dir)
    if run_dir.name != "gcgan":
        fails("transfer", *at, "--n", 3, "--out", tmp_path / "t")
        fails("cross", *at)
        fails("embed", *at)
        return
    say("transfer", *at, "--n", 3, "--out", tmp_path / "t")
    rows = read_manifest(tmp_path / "t")
    assert len(rows) == 21 and {row.target for row in rows} == set(synthetic.CLASSES[:7])
    assert read_export(tmp_path / "t")["base"] == "source"
    points = np.load(tmp_path / "t" / rows[0].landmarks)
    assert points.shape == (68, 2)
    source = np.asarray(Image.open(tmp_path / "t" / rows[0].source), int)
    truth = np.asarray(Image.open(tmp_path / "t" / rows[0].truth), int)
    assert 0 < np.abs(source - truth).mean() < 12  # the same person and light, another expression
    say("cross", *at, "test:0", "test:3", "--references", "test:1", "test:2", "--out", tmp_path / "cross.png")
    say("edit", *at, "test:0", "--like", "test:1", "--out", tmp_path / "like.png")
    say("embed", *at, "--n", 60, "--out", tmp_path / "embed.json")
    table = json.loads((tmp_path / "embed.json").read_text())["by_noise"]
    assert set(table) == {"0", "0.02", "0.045"} and 0 <= table["0"]["5-NN accuracy"] <= 1


def test_a_region_moves_alone(run_dir):
    if run_dir.name != "gcgan":
        return
    editor = families.open_editor(run_dir, GeometryOptions(region="mouth"))
    faces = editor.take("test", [0, 1])
    own, moved = editor.codes(faces)["points"], editor.target(faces, editor.parse("happy"))["points"]
    mouth = list(GROUPS["mouth"])
    others = [i for i in range(68) if i not in mouth]
    assert torch.equal(own[:, others], moved[:, others]) and not torch.equal(own[:, mouth], moved[:, mouth])


def test_drivers_are_other_persons_of_the_class(run_dir):
    from gcgan.modes import other_persons

    if run_dir.name != "gcgan":
        return
    editor = families.open_editor(run_dir)
    faces, labels = editor.take("test", range(20)), editor.split("test").labels
    places = other_persons(faces, labels, 3, 0)
    assert (labels["label"][places] == 3).all()
    assert (labels["identity"][places] != faces.batch["identity"].numpy()).all()


def test_a_photo_s_label_and_landmarks_are_read_by_the_critic(run_dir, tmp_path):
    editor = sharpened(families.open_editor(run_dir))
    faces = editor.subjects([camera_photo(tmp_path / "camera.png")], EYES)
    assert editor.label_source == "read by the critic's class head"
    assert (
        not editor.predict_labels(faces)[:, [editor.label_names().index(n) for n in editor.method.names]].isnan().any()
    )
    assert torch.isfinite(editor.reconstruct(faces)).all()
    if run_dir.name == "gcgan":
        with pytest.raises(UserError, match="landmarks"):
            editor.edit(editor.take("test", [0]), faces)  # a driver's landmarks are not guessed


def test_what_cannot_be_done_is_one_sentence(run_dir, tmp_path, capsys):
    at = ("--run-dir", run_dir)
    fails("draw", *at)
    fails("interpolate", *at, "test:0", "test:1")
    fails("edit", *at, "test:0", "--attr", "contempt")
    if run_dir.name != "gcgan":
        fails("edit", *at, "test:0", "--like", "test:1")
    for line in capsys.readouterr().err.splitlines():
        assert "Traceback" not in line


def test_the_benchmark_edits_to_every_expression(run_dir, tmp_path):
    editor = families.open_editor(run_dir, device="cpu")
    if not editor.classes:  # the system with attributes has none
        return
    faces = benchmark_faces(DataConfig(dataset="synthetic", image_size=32, num_train=30, num_val=20, num_test=20), 4)
    assert export_benchmark(editor, tmp_path / "out", faces, class_targets(faces)) == {}
    rows = read_manifest(tmp_path / "out")
    assert sum(row.kind == "edit" and bool(row.truth) for row in rows) == 4 * 7
    assert sum(row.kind == "reconstruction" for row in rows) == 4 + 4 * 7

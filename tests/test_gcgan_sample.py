"""gcgan from the command line on drawn faces: tiny runs of each system, the editor's contract, every mode, errors."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from editor_contract import EYES, camera_photo, check
from PIL import Image

import families
from data import synthetic
from data.landmarks import GROUPS
from editing.editor import Editor
from engine import UserError
from evaluation.manifest import read_export, read_manifest
from gcgan import sample, train
from gcgan.editor import GCGANEditor, GeometryOptions, LandmarkOptions, PaperEditor, StarGANEditor
from gcgan.motion import between, driven_points, evenness_of

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
    "gcgan_paper": (
        f"system: gcgan_paper\n{DATA.replace('32', '64', 1)}, pair: true}}\n"
        "train: {total_steps: 2, batch_size: 4, log_every: 2, validate_every: 2, sample_every: 2, save_every: 2, "
        "val_images: 4, sample_size: 8}\n"
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


@pytest.fixture(scope="module", autouse=True)
def narrow_paper_networks() -> Iterator[None]:
    """The authors' networks with 16 channels in the smallest maps instead of 256; a step of theirs takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gcgan.paper.FEATURES", 16)
        yield


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
    if isinstance(editor, PaperEditor):  # codes after BatchNorm and ReLU are not small
        torch.nn.init.normal_(editor.method.image_decoder.inp[0].weight, std=0.1)
        return editor
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
    expected = {"gcgan": GCGANEditor, "gcgan_paper": PaperEditor}
    assert type(editor) is expected.get(run_dir.name, StarGANEditor)
    request = "Smiling=1" if run_dir.name == "stargan_attr" else "happy"
    check(editor, request, camera_photo(tmp_path / "camera.png"))


def test_every_mode_writes_a_picture_and_how_it_was_made(run_dir, tmp_path, capsys):
    at = ("--run-dir", run_dir)
    photo = camera_photo(tmp_path / "camera.png")
    request = request_of(run_dir).replace("flip", "1")
    say("edit", *at, "--attr", request, photo, "--eyes", EYES, "--out", tmp_path / "edit")
    say("strip", *at, "--n", 2, "--out", tmp_path / "strip.png")
    say("sheet", *at, "--n", 2, "--noise-std", 0.05, "--out", tmp_path / "sheet.png")
    say("curve", *at, "--out", tmp_path / "curve.png")
    for name in ("strip", "sheet", "curve"):
        assert (tmp_path / f"{name}.png").is_file() and "sha256" in json.loads((tmp_path / f"{name}.json").read_text())
    tiles = json.loads((tmp_path / "sheet.json").read_text())["critic_captions"]
    assert all(text.startswith("D ") for row in tiles for text in row)
    steps = 2 if run_dir.name == "gcgan_paper" else 12
    assert f"step_{steps:07d}_edits.png" in {p.name for p in (run_dir / "samples").iterdir()}


def test_hair_colours_exclude_each_other_on_a_sheet(run_dir):
    from gcgan.modes import sheet_requests

    if run_dir.name != "stargan_attr":
        assert len(sheet_requests(families.open_editor(run_dir))) == 7
        return
    editor = families.open_editor(run_dir)
    requests = sheet_requests(editor)
    assert [r.names[0] for r in requests] == ["Black_Hair", "Blond_Hair", "Smiling", "Male"]
    target = editor.target(editor.take("test", [0]), requests[0])["c"]
    columns = [editor.method.labels.names.index(name) for name in ("Black_Hair", "Blond_Hair")]
    assert target[0, columns].tolist() == [1.0, 0.0]


def test_strength_runs_from_the_own_to_the_target_label(run_dir):
    editor = sharpened(families.open_editor(run_dir))
    faces = editor.take("test", [0, 1])
    to = editor.parse(request_of(run_dir))
    code, target = editor.codes(faces), editor.target(faces, to)
    key = {"gcgan": "points", "gcgan_paper": "z"}.get(run_dir.name, "c")
    assert target["x"] is code["x"] and not torch.equal(target[key], code[key])
    half = editor.edit(faces, to, [0.5])[0]
    whole = editor.images(code | {key: torch.lerp(code[key], target[key], 0.5)})
    assert torch.allclose(half, whole, atol=1e-5)
    if run_dir.name == "gcgan":  # the way of the landmarks: E(g + s (g' - g))
        method, g = editor.method, code["points"]
        z = method.encoder(g + 0.5 * (target["points"] - g))
        assert torch.allclose(half, method.edit(code["x"], z), atol=1e-5)


def test_a_mixture_does_not_depend_on_its_order(run_dir):
    if run_dir.name == "stargan_attr":
        return
    editor = sharpened(families.open_editor(run_dir))
    faces = editor.take("test", [0, 1])
    one, other = (
        editor.edit(faces, editor.parse(words)) for words in (["happy=0.5", "sad=0.3"], ["sad=0.3", "happy=0.5"])
    )
    assert torch.equal(one, other) and not torch.equal(one, editor.edit(faces, editor.parse("happy=0.5")))


def test_transfer_has_the_truth_of_the_driver_s_muscles(run_dir, tmp_path):
    at = ("--run-dir", run_dir)
    if run_dir.name != "gcgan":
        fails("embed", *at)
        fails("drive", *at, "test:0", "--driving", "test:1")
    if run_dir.name.startswith("stargan"):
        fails("transfer", *at, "--n", 3, "--out", tmp_path / "t")
        fails("cross", *at)
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
    if run_dir.name != "gcgan":
        return
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


def test_without_landmarks_the_class_code_is_the_target(run_dir):
    """The critic's landmarks are not accurate, so they must not decide the edit."""
    if run_dir.name != "gcgan":
        return
    editor = sharpened(families.open_editor(run_dir))
    faces = editor.take("test", [0, 1])
    photos = editor.from_images(faces.images)
    edit, method = editor.edit(photos, editor.parse("happy"))[0], editor.method
    z = method.class_codes[editor.classes.index("happy")].expand(2, -1)
    assert torch.allclose(edit, method.edit(faces.images, z), atol=1e-5)
    known = editor.from_batch(faces.batch, editor.meta, faces.names)
    assert torch.equal(editor.codes(known)["points"], editor.codes(faces)["points"])
    assert not torch.allclose(edit, editor.edit(known, editor.parse("happy"))[0], atol=1e-5)


def test_drivers_are_other_persons_of_the_class(run_dir):
    from gcgan.transfer import other_persons

    if not run_dir.name.startswith("gcgan"):
        return
    editor = families.open_editor(run_dir)
    faces, labels = editor.take("test", range(20)), editor.split("test").labels
    places = other_persons(faces, labels, 3, 0)
    assert (labels["label"][places] == 3).all()
    assert (labels["identity"][places] != faces.batch["identity"].numpy()).all()


def test_a_photo_s_label_and_landmarks_are_read_by_the_critic(run_dir, tmp_path):
    editor = sharpened(families.open_editor(run_dir))
    faces = editor.subjects([camera_photo(tmp_path / "camera.png")], EYES)
    assert editor.label_source.startswith("read by the critic's class head")
    assert (
        not editor.predict_labels(faces)[:, [editor.label_names().index(n) for n in editor.method.labels.names]]
        .isnan()
        .any()
    )
    assert torch.isfinite(editor.reconstruct(faces)).all()
    if run_dir.name.startswith("gcgan"):
        with pytest.raises(UserError, match="landmarks"):
            editor.edit(editor.take("test", [0]), faces)  # a driver's landmarks are not guessed


def test_a_class_is_believed_from_a_probability_of_nine_tenths_on(run_dir, monkeypatch):
    method = families.open_editor(run_dir).method
    (block,) = method.labels.blocks
    if run_dir.name == "gcgan_paper" or block.attributes:
        return
    happy, neutral, size = block.names.index("happy"), block.names.index("neutral"), method.meta["image_size"]
    x = torch.zeros(2, method.meta["channels"], size, size)
    for p, expected in ((0.92, happy), (0.88, neutral)):
        others = math.log((1 - p) / (len(block.names) - 1))
        logits = torch.full((2, len(method.labels.names)), others)
        logits[:, block.columns][:, happy] = math.log(p)
        monkeypatch.setattr(method.critic, "logits", lambda h, logits=logits: logits)
        assert method.read(x, block).argmax(1).tolist() == [happy] * 2
        assert method.read_confident(x, block).argmax(1).tolist() == [expected] * 2


def test_what_cannot_be_done_is_one_sentence(run_dir, tmp_path, capsys):
    at = ("--run-dir", run_dir)
    fails("draw", *at)
    fails("interpolate", *at, "test:0", "test:1")
    fails("edit", *at, "test:0", "--attr", "contempt")
    if run_dir.name.startswith("stargan"):
        fails("edit", *at, "test:0", "--like", "test:1")
    for line in capsys.readouterr().err.splitlines():
        assert "Traceback" not in line


# Moving pictures.


def test_a_transition_passes_its_keyframes(run_dir, tmp_path, capsys):
    at = ("--run-dir", run_dir)
    if run_dir.name == "stargan_attr":
        say("transition", *at, "test:0", "--to", "Smiling=1,Male=flip", "--n", 3, "--out", tmp_path / "t.png")
        assert json.loads((tmp_path / "t.json").read_text())["way"] == "label"
        return
    say("transition", *at, "test:0", "--to", "happy,sad", "--n", 4, "--out", tmp_path / "t.png")
    record = json.loads((tmp_path / "t.json").read_text())
    assert record["to"] == ["happy", "sad"] and len(record["spearman"]) == len(record["largest_step"]) == 2
    assert (tmp_path / "t.webp").is_file() and "part of the training" in capsys.readouterr().out
    editor = sharpened(families.open_editor(run_dir))
    face = editor.take("test", [0])
    own, happy = editor.codes(face), editor.target(face, editor.parse("happy"))
    t = torch.tensor([0.0, 0.5, 1.0])
    ways = {"gcgan": ["landmarks", "code"], "gcgan_paper": ["code"]}.get(run_dir.name, ["label"])
    for way in ways:
        frames = between(editor, own, happy, t, way)
        assert torch.allclose(frames[0], editor.reconstruct(face)[0], atol=1e-5)
        assert torch.allclose(frames[2], editor.edit(face, editor.parse("happy"))[0, 0], atol=1e-5)
        middle = editor.edit(face, editor.parse("happy"), [0.5])[0, 0]
        straight = way != "code" or run_dir.name == "gcgan_paper"
        assert torch.allclose(frames[1], middle, atol=1e-5) == straight  # the sphere's way is another one
    others = {"label", "landmarks", "code"} - set(ways)
    fails("transition", *at, "test:0", "--to", "happy", "--path", others.pop())
    fails("transition", *at, "test:0", "--to", "happy", "--n", 2)
    fails("transition", *at, "test:0", "--to", ",")


def test_evenness_is_rank_correlation_and_the_largest_step(monkeypatch):
    p = torch.tensor([0.1, 0.2, 0.7, 0.6])
    monkeypatch.setattr("gcgan.motion.critic_probability", lambda *given: p)
    assert evenness_of(None, None, p, "happy") == pytest.approx((0.8, 0.5), abs=1e-6)
    p = torch.full((4,), 0.3)
    assert evenness_of(None, None, p, "happy") == (0.0, 0.0)  # nothing moves


def test_driving_moves_the_own_landmarks_by_the_driver_s_expression(run_dir, tmp_path, capsys):
    if run_dir.name != "gcgan":
        return
    at, frames = ("--run-dir", run_dir), ("test:1", "test:2", "test:3")
    say("drive", *at, "test:0", "--driving", *frames, "--out", tmp_path / "drive.png")
    assert len(list((tmp_path / "drive").glob("frame_*.png"))) == 3 and (tmp_path / "drive.webp").is_file()
    editor = families.open_editor(run_dir)
    face, third = editor.take("test", [0]), editor.take("test", [3])
    expected = ((editor.edit(face, third)[0, 0] + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(Image.open(tmp_path / "drive" / "frame_0002.png"), int) - expected).max() <= 1

    # Relative: a driver that is its own neutral moves nothing; any other one by his change.
    g, (z, other) = editor.codes(face)["points"], editor.method.code(third.batch["landmarks"]).expand(2, -1).clone()
    other = torch.nn.functional.normalize(-other, dim=0)
    with torch.no_grad():
        assert torch.allclose(driven_points(editor, g, z[None], z[None]), g, atol=1e-6)
        change = editor.method.retarget(z[None], g) - editor.method.retarget(other[None], g)
        assert torch.allclose(driven_points(editor, g, z[None], other[None]), g + change, atol=1e-5)
        assert torch.equal(driven_points(editor, g, z[None], None), editor.retargeted(z[None], g))
        assert not torch.allclose(g + change, editor.retargeted(z[None], g), atol=1e-3)
    same = ("--relative", "--driver-neutral", "test:1")
    say("drive", *at, "test:0", "--driving", "test:1", *same, "--out", tmp_path / "r.png")
    capsys.readouterr()
    say("drive", *at, "test:0", "--driving", "test:1", "--relative", "--region", "mouth", "--out", tmp_path / "m.png")
    assert "neutral face is not given" in capsys.readouterr().out
    options = GeometryOptions(region="mouth")
    editor = families.open_editor(run_dir, options)
    g = torch.zeros(1, 68, 2)
    moved = editor.keep_region(torch.ones(1, 68, 2), g)
    assert moved[0, list(GROUPS["mouth"])].eq(1).all() and moved.sum() == 2 * len(GROUPS["mouth"])


def test_frames_without_landmarks_leave_and_files_give_them(run_dir, tmp_path, monkeypatch, capsys):
    if run_dir.name != "gcgan":
        return
    at, frames, points = ("--run-dir", run_dir), tmp_path / "frames", tmp_path / "points"
    frames.mkdir()
    points.mkdir()
    for i in range(3):
        camera_photo(frames / f"{i}.png")
    for i in range(2):  # of the photo, in px; the third frame has none
        np.save(points / f"{i}.npy", synthetic.landmarks(synthetic.factors(0, np.arange(1) + i))[0] * 48 + 78)
    out = ("--eyes", "whole", "--landmarks", points, "--out", tmp_path / "d.png")
    say("drive", *at, "test:0", "--driving", frames, *out)
    assert "1 of 3 frames have no landmarks" in capsys.readouterr().out
    assert len(list((tmp_path / "d").glob("frame_*.png"))) == 2
    fails("drive", *at, "test:0", "--driving", frames, "--landmarks", points / "0.npy", "--eyes", "whole")
    editor = families.open_editor(run_dir, LandmarkOptions(str(points)))
    assert editor.landmarks_file("x/1.png") == points / "1.npy" and editor.landmarks_file("7.png") is None


def test_a_report_has_the_run_s_figures(run_dir, tmp_path):
    at = ("--run-dir", run_dir)
    if run_dir.name == "stargan_attr":
        fails("report", *at)
        return
    say("report", *at, "--n", 14, "--out", tmp_path / "report.json")
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["faces"] == 14 and set(record["l1_of_edits"]) == set(synthetic.CLASSES[:7])
    assert record["psnr_cycle"] > 0 and record["sharpness_of_edits"] > 0

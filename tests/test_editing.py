"""The interface to a trained model, tested with a toy editor without a network."""

import json
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch
from editor_contract import EYES, GreyJudge, camera_photo, check
from PIL import Image, ImageCms

import families
from data import DataConfig, build_faces, synthetic
from data.drawn_reader import DrawnFaces
from data.labels import label_names, label_table, requested_labels
from data.request import parse_request
from editing import cli, editor, modes
from editing.changes import describe_changes, format_changes
from editing.export import export_edits, ground_truth, target_texts, true_answers
from editing.judge import Judge, edit_metrics
from editing.paint import paint, photo_suffix, save_photo
from editing.record import check_outputs, output_path, unique_paths
from editing.sheets import animate, blocks, filled, square
from editing.subjects import Subjects, expand_folders, face_number, is_face_name
from engine import Grid, UserError
from engine.grids import grid_image
from evaluation.manifest import read_export, read_manifest
from latents.roc_auc import roc_auc

META = {"dataset": "toy", "attributes": ["Smiling", "Male"], "classes": ["happy", "sad", "neutral"]}
COLUMNS = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]


@dataclass(frozen=True)
class Options:
    """Options of the toy."""

    kind: Literal["bright", "dark"] = "bright"  # how an edit looks; 100 % sure
    keep: tuple[str, ...] = ()  # labels that stay
    gain: float = 1.0  # how far


@dataclass
class Toy(editor.Editor):
    """A code is the picture and its labels; each label brightens one row. No run directory is read."""

    run_dir: Path
    options: Options = field(default_factory=Options)
    step: int | None = None
    device: str = "cpu"
    data_root: Path | None = None
    options_class = Options

    def __post_init__(self) -> None:
        self.run_dir, self.device, self.encoded = Path(self.run_dir), torch.device("cpu"), 0
        data = DataConfig(dataset="synthetic", image_size=32, num_train=30, num_val=20, num_test=20)
        data.attributes = ["Smiling", "Male"]
        origin = SimpleNamespace(run="toy", step=7, sha256="0" * 64)
        self.method = SimpleNamespace(cfg=SimpleNamespace(data=data), origin=origin)
        self.meta = build_faces(data).meta
        self.classes, self.attributes = list(self.meta["classes"]), list(self.meta["attributes"])
        self.conditioned_on = self.classes

    def encode(self, batch):
        self.encoded += len(batch["image"])
        return {"x": batch["image"], "y": label_table(batch, self.meta).nan_to_num()}

    def decode(self, code):
        rows = torch.zeros_like(code["x"])
        rows[:, :, 2 : 2 + code["y"].shape[1]] = 0.4 * code["y"][:, None, :, None]
        return (0.5 * code["x"] + rows).clamp(-1, 1)

    def target_code(self, code, faces, request):
        return code | {"y": requested_labels(request, code["y"], self.meta)}

    def draw_codes(self, seeds, labels):
        size = self.meta["image_size"]
        x = [torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed)) - 0.5 for seed in seeds]
        return {"x": torch.stack(x), "y": labels.nan_to_num()}


class Blind(Toy):
    """A family without an encoder."""

    unsupported = {"read": "this family has no encoder", "mix": "this family cannot mix"}


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path / "run")


@pytest.fixture
def photo(tmp_path: Path) -> str:
    return camera_photo(tmp_path / "me.png")


def call(tmp_path: Path, *words: str, family: type = Toy) -> None:
    cli.sample_main(family, {}, "a toy", [words[0], "--run-dir", str(tmp_path / "run"), *words[1:]])


def facts(path: Path) -> dict:
    return json.loads(path.with_suffix(".json").read_text())


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


# Faces.


def test_the_toy_fulfils_the_contract(toy: Toy, photo: str) -> None:
    check(toy, "happy", photo)
    check(Blind(toy.run_dir), "happy", photo)


def test_faces_by_name(toy: Toy, photo: str) -> None:
    faces = toy.subjects(["seed:7", "test:3", photo, "train:0"], EYES)
    assert faces.names == ["seed:7", "test:3", photo, "train:0"] and len(faces) == 4
    assert faces.batch["index"].tolist() == [-1, 53, -1, 0] and faces.batch["label"].tolist()[::2] == [-1, -1]
    assert torch.equal(faces.images[1:2], toy.take("test", [3]).images)
    assert faces.select([1]).names == ["test:3"] and faces.photos[2].path == Path(photo)
    assert torch.equal(toy.subjects(["seed:7"]).images, toy.draw([7]).images)
    assert toy.spread("val", 0) == [f"val:{i}" for i in range(20)] and len(set(toy.spread("test", 7))) == 7
    assert is_face_name("seed:12") and not is_face_name("C:12") and face_number("me.jpg", "test") is None


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["test:20"], "expected test:0 to test:19"),
        (["test:x"], "expected a number after 'test:'"),
        (["seed:-1"], "expected a number after 'seed:'"),
        (["missing.png"], "missing.png: this file does not exist"),
        (["a.png", "b.png"], "no photo could be used:\n  a.png.*\n  b.png"),
    ],
)
def test_invalid_face_names_raise_user_errors(toy: Toy, names: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        toy.subjects(names)


def test_a_folder_is_replaced_by_its_images(toy: Toy, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "inside").mkdir(parents=True)
    for name in ("p10.png", "p2.png", ".hidden.png"):
        camera_photo(folder / name)
    (folder / "notes.txt").write_text("no picture")
    found = [str(folder / "p2.png"), str(folder / "p10.png")]
    assert expand_folders(["test:1", str(folder)]) == ["test:1", *found]
    assert toy.subjects([str(folder)], "whole").names == found
    with pytest.raises(UserError, match="has no image"):
        toy.subjects([str(folder / "inside")])


def test_a_damaged_photo_is_skipped(tmp_path: Path, photo: str, capsys) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    words = ["edit", "--attr", "happy", "--eyes", "whole", "--out", str(tmp_path / "out")]
    call(tmp_path, *words, str(tmp_path / "bad.jpg"), photo)  # leaves without SystemExit: exit code 0
    assert (tmp_path / "out/edit_me.png").is_file() and "skipped: " in (said := capsys.readouterr().err)
    assert "bad.jpg" in said
    with pytest.raises(SystemExit) as left:
        call(tmp_path, *words, str(tmp_path / "bad.jpg"))
    assert left.value.code == 2 and "bad.jpg" in capsys.readouterr().err


def test_eyes_of_several_photos_and_wrong_image_sizes_raise_user_errors(toy: Toy, photo: str) -> None:
    with pytest.raises(UserError, match="expected one photo for these coordinates, got 2"):
        toy.subjects([photo, photo], EYES)
    with pytest.raises(UserError, match="expected images of 3 x 32 x 32, got 1 x 32 x 32"):
        toy.from_images(torch.zeros(1, 1, 32, 32))


def test_from_sets_the_current_labels(toy: Toy, photo: str) -> None:
    before = toy.take("test", range(4))
    faces = toy.subjects(before.names, source="sad,Smiling=1")
    assert faces.given and faces.batch["label"].tolist() == [4] * 4 and faces.batch["attr"][:, 0].tolist() == [1] * 4
    assert torch.equal(faces.batch["attr"][:, 1], before.batch["attr"][:, 1])  # what is not named stays
    known = toy.subjects([photo], EYES, "Male=0")
    assert known.batch["label"].tolist() == [-1] and known.batch["attr"].isnan().tolist() == [[True, False]]


def test_faces_of_another_data_set_keep_labels_with_known_names(toy: Toy) -> None:
    batch = {"image": torch.zeros(3, 3, 32, 32), "index": torch.arange(3), "label": torch.tensor([0, 1, -1])}
    batch["attr"] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    meta = {"classes": ["happy", "bored"], "attributes": ["Young", "Male"]}
    faces = toy.from_batch(batch, meta, ["a", "b", "c"])
    assert faces.batch["label"].tolist() == [3, -1, -1]
    assert faces.batch["attr"][:, 0].isnan().all() and faces.batch["attr"][:, 1].tolist() == [0, 1, 1]


def test_a_photo_unlike_the_training_crops_is_reported(toy: Toy, photo: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(Toy, "atypicality", lambda self, faces: faces.batch["index"].float().abs())
    assert toy.typical_limit == pytest.approx(48.81, abs=0.1)  # of the validation faces 30 to 49
    monkeypatch.setattr(Toy, "atypicality", lambda self, faces: torch.full((len(faces),), 200.0))
    toy.subjects([photo, "test:0"], EYES)
    said = capsys.readouterr().err
    assert "me.png: does not look like the training crops" in said and "test:0" not in said


# Verbs.


def test_codes_are_computed_once(toy: Toy) -> None:
    faces = toy.subjects(["test:0", "test:1", "test:2"])
    toy.reconstruct(faces), toy.edit(faces, toy.parse("happy"), (0.5, 1.0))
    assert toy.encoded == 3
    code, target = toy.codes(faces), toy.target(faces, toy.parse("happy"))
    assert target["x"] is code["x"] and editor.partway(code, target, 0.0) is code
    assert torch.equal(editor.partway(code, target, 2.0)["y"], 2 * target["y"] - code["y"])
    with pytest.raises(UserError, match="--like: this family cannot use another face"):
        toy.edit(faces, toy.subjects(["test:5"]))


def test_a_generated_face_has_the_requested_labels(toy: Toy) -> None:
    free, happy, smiling = toy.draw([3]), toy.draw([3], toy.parse("happy")), toy.draw([3], toy.parse("Smiling=1"))
    columns = toy.label_names()
    assert happy.code["y"][0, columns.index("happy")] == 1  # conditioned on: drawn so
    assert smiling.code["y"][0, columns.index("Smiling")] == 1  # else: edited afterwards
    assert free.code["y"].abs().sum() == 0 and torch.equal(free.code["x"], happy.code["x"])
    assert torch.equal(smiling.images, toy.images(smiling.code))
    assert toy.draw([3], toy.parse("happy=0.7")).code["y"][0, columns.index("happy")] == pytest.approx(0.7)


def test_interpolations_start_and_end_at_the_faces(toy: Toy) -> None:
    faces = toy.subjects(["test:0", "test:1", "test:2", "test:3"])
    ends = toy.reconstruct(faces)
    line, sheet = toy.mix(faces.select([0, 1]), 3), toy.mix(faces, 3)
    assert line.shape[:2] == (1, 3) and sheet.shape[:2] == (3, 3)
    assert torch.equal(line[0, [0, -1]], ends[:2])
    corners = torch.stack([sheet[0, 0], sheet[0, -1], sheet[-1, 0], sheet[-1, -1]])
    assert torch.allclose(corners, ends, atol=1e-6)
    with pytest.raises(UserError, match="expected two or four faces, got 3"):
        toy.mix(faces.select([0, 1, 2]), 3)


# The command line.


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (["edit", "test:1", "seed:4", "--attr", "happy=0.7"], ["edit.png"]),
        (["edit", "--n", "2", "--attr", "happy", "Smiling=flip", "--detail", "decode"], ["edit.png"]),
        (["strip", "--n", "3"], ["strip.png"]),
        (["strip", "test:2", "--attr", "Smiling=flip", "--from", "sad"], ["strip.png"]),
        (["slider", "--n", "2", "--attr", "happy", "--strength", "-1:2:7"], ["slider.png", "slider.webp"]),
        (["slider", "test:2", "--strength", "0:1:2"], ["slider.png"]),
        (["recon", "--n", "3"], ["recon.png"]),
        (["draw", "--n", "5", "--attr", "happy"], ["draw.png"]),
        (["interpolate", "seed:0", "test:9", "--n", "3"], ["interpolate.png", "interpolate.webp"]),
        (["interpolate", "test:0", "test:1", "test:2", "test:3", "--n", "2"], ["interpolate.png"]),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else value,
)
def test_a_mode_writes_its_files(tmp_path: Path, words: list[str], files: list[str]) -> None:
    call(tmp_path, *words, "--seed", "4", "--kind", "dark")
    for name in files:
        assert (tmp_path / "run/pictures" / name).stat().st_size > 0
    record = facts(tmp_path / "run/pictures" / files[0])
    assert (record["seed"], record["step"], record["kind"], record["keep"]) == (4, 7, "dark", [])
    assert {"command", "run", "sha256"} <= set(record)


def test_negative_strengths_on_the_command_line(tmp_path: Path) -> None:
    call(tmp_path, "slider", "test:0", "--attr", "happy", "--strength", "-1:2:7")
    assert facts(tmp_path / "run/pictures/slider.png")["strengths"] == [-1, -0.5, 0, 0.5, 1, 1.5, 2]
    assert str(modes.parse_strengths("-1:2:7")[2]) == "0.0" and modes.parse_strengths("-1.5") == [-1.5]
    for text in ("much", "0:1", "0:1:1", "0:1:3:4", "nan:1:3"):
        with pytest.raises(UserError, match="expected a number, or from:to:count"):
            modes.parse_strengths(text)


def test_files_after_attr_are_images(tmp_path: Path) -> None:
    words, images = ["Smiling=0.7", "happy", "me.jpg", "test:3", "a/b.png", "seed:1", str(tmp_path)], ["x.png"]
    modes.take_images(words, images)
    assert words == ["Smiling=0.7", "happy"] and images[:5] == ["x.png", "me.jpg", "test:3", "a/b.png", "seed:1"]
    modes.take_images(None, images)
    call(tmp_path, "edit", "--attr", "happy", "test:5", "--out", str(tmp_path / "a.png"))
    call(tmp_path, "edit", "test:5", "--attr", "happy", "--out", str(tmp_path / "b.png"))
    assert [change["face"] for change in facts(tmp_path / "a.png")["faces"]] == ["test:5"]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["edit", "test:1"], "edit: expected one of --attr"),
        (["edit", "test:1", "--attr", "happy", "--like", "test:2"], "expected one of --attr"),
        (["edit", "test:1", "--like", "test:2"], "this family cannot use another face"),
        (["edit", "test:1", "--attr", "hapy"], "'hapy' is unknown here"),
        (["edit", "test:1", "--attr", "happy", "--strength", "0:1:3"], "expected one number; use `slider` for several"),
        (["edit", "--attr", "happy", "--keep", "Male", "me.jpg"], "put the names of faces before the options"),
        (["strip", "test:1", "--strength", "0:1:3"], "expected one number; use `slider` for several"),
        (["interpolate", "test:1"], "expected two or four faces, got 1"),
        (["export", "--what", "edit"], "--out is missing"),
        (["edit", "test:1", "--attr", "happy", "--kind", "other"], "invalid choice: 'other'"),
    ],
)
def test_wrong_commands_raise_user_errors(tmp_path: Path, words: list[str], sentence: str, capsys) -> None:
    with pytest.raises(SystemExit) as left:
        call(tmp_path, *words)
    said = capsys.readouterr().err
    assert left.value.code == 2 and sentence in said and "Traceback" not in said


def test_options_of_a_family_come_from_its_dataclass(tmp_path: Path, capsys) -> None:
    parser = cli.sample_parser(Toy, modes.shared_modes(Toy))
    args = parser.parse_args(["edit", "a.png", "--run-dir", "r", "--gain", "2", "--keep", "Male", "Smiling"])
    assert cli.options_of(args, Options) == Options("bright", ("Male", "Smiling"), 2.0) and args.images == ["a.png"]
    with pytest.raises(SystemExit):
        parser.parse_args(["edit", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "options of this family" in said and "how an edit looks; 100 % sure" in said


def test_unsupported_modes_are_hidden_and_raise_user_errors(tmp_path: Path, photo: str, capsys) -> None:
    assert {"edit", "draw"} <= set(modes.shared_modes(Blind)) and "recon" not in modes.shared_modes(Blind)
    for words, sentence in (
        (["recon"], "recon: this family has no encoder"),
        (["edit", photo, "--attr", "happy"], "this family has no encoder"),
        (["edit", "test:1", "--attr", "happy"], "give a generated face, as seed:0"),
    ):
        with pytest.raises(SystemExit) as left:
            call(tmp_path, *words, family=Blind)
        assert left.value.code == 2 and sentence in capsys.readouterr().err
    call(tmp_path, "strip", "--n", "2", "--seed", "5", family=Blind)
    assert facts(tmp_path / "run/pictures/strip.png")["faces"] == ["seed:5", "seed:6"]


@pytest.mark.parametrize(
    ("launches", "sentence"),
    [
        (None, "'family' is ''"),
        ([{"family": "gan"}], "expected one of vae, interface_gan, flow"),
        ("{", "not valid JSON"),
    ],
)
def test_a_run_of_an_unknown_family_raises_a_user_error(tmp_path: Path, launches: object, sentence: str) -> None:
    with pytest.raises(UserError, match="is not a run directory"):
        families.open_editor(tmp_path)
    (tmp_path / "config.yaml").touch()
    if launches is not None:
        text = launches if isinstance(launches, str) else json.dumps(launches)
        (tmp_path / "environment.json").write_text(text)
    with pytest.raises(UserError, match=sentence):
        families.open_editor(tmp_path)


# What is written.


def test_output_paths(toy: Toy, tmp_path: Path) -> None:
    path = lambda out: output_path(toy, Namespace(out=out), "edit")  # noqa: E731
    assert path(None) == tmp_path / "run/pictures/edit.png" and path(Path("a/b.png")) == Path("a/b.png")
    assert path(tmp_path) == tmp_path / "edit.png" and path(tmp_path / "new") == tmp_path / "new/edit.png"
    names = [("a/me.jpg", ".jpg"), ("b/me.png", ".png"), ("c/me.jpg", ".jpg"), ("d/me.jpg", ".jpg")]
    written = [p.name for p in unique_paths(tmp_path, "edit", names)]
    assert written == ["edit_me.jpg", "edit_me.png", "edit_me_2.jpg", "edit_me_3.jpg"]
    with pytest.raises(UserError, match="would overwrite the input photo"):
        check_outputs([Path("x/../a.png")], ["a.png"])


def test_photos_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    photos = []
    for folder in "ab":
        (tmp_path / folder).mkdir()
        photos.append(camera_photo(tmp_path / folder / "me.png"))
    out = tmp_path / "out"
    call(tmp_path, "edit", *photos, "--eyes", "whole", "--attr", "happy", "--out", str(out))
    assert {p.name for p in out.iterdir()} == {"edit.png", "edit.json", "edit_me.png", "edit_me_2.png"}


def test_the_input_photo_is_never_overwritten(tmp_path: Path, photo: str, capsys) -> None:
    before = Path(photo).read_bytes()
    other = camera_photo(tmp_path / "x_me.png")  # what --out x.png would name the edited me.png
    for out in (photo, str(tmp_path / "x.png")):
        with pytest.raises(SystemExit) as left:
            call(tmp_path, "edit", photo, other, "--eyes", "whole", "--attr", "happy", "--out", out)
        assert left.value.code == 2 and "would overwrite the input photo" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()
    for mode in (["strip", "--attr", "happy"], ["slider", "--attr", "happy"], ["interpolate"]):
        with pytest.raises(SystemExit):
            call(tmp_path, mode[0], photo, other, *mode[1:], "--eyes", "whole", "--out", photo)
    assert Path(photo).read_bytes() == Path(other).read_bytes() == before


def test_a_photo_keeps_its_pixels_outside_the_edit(tmp_path: Path, photo: str) -> None:
    out, words = tmp_path / "e.png", ["edit", photo, "--eyes", EYES, "--out", str(tmp_path / "e.png")]
    call(tmp_path, *words, "--attr", "happy", "--strength", "0")
    assert (tmp_path / "e_me.png").read_bytes() == Path(photo).read_bytes()
    call(tmp_path, *words, "--attr", "happy")
    before, after = pixels(photo), pixels(tmp_path / "e_me.png")
    assert after.shape == before.shape and not np.array_equal(before, after)
    assert np.array_equal(before[:, :20], after[:, :20])  # far from the face
    assert out.is_file()


@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp"), ("TIFF", ".tif")])
def test_a_photo_keeps_format_profile_and_exif(tmp_path: Path, kind: str, suffix: str) -> None:
    """The EXIF orientation is removed: the picture that is written is upright."""
    upright = Image.open(camera_photo(tmp_path / "plain.png")).convert("RGB")
    profile, exif = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), Image.Exif()
    exif[0x010F], exif[0x0112] = "a maker", 6  # turned by 270 degrees
    path = tmp_path / f"me{'.jpeg' if kind == 'JPEG' else suffix}"
    upright.rotate(90, expand=True).save(path, kind, exif=exif, icc_profile=profile)
    call(tmp_path, "edit", str(path), "--eyes", EYES, "--attr", "happy", "--out", str(tmp_path / "out"))
    with Image.open(tmp_path / f"out/edit_me{suffix}") as written:
        assert written.format == kind and written.size == upright.size
        assert written.info.get("icc_profile") == profile
        assert written.getexif().get(0x010F) == "a maker" and written.getexif().get(0x0112, 1) == 1


def test_a_photo_is_saved_as_png_where_its_format_cannot_be_written(toy: Toy, tmp_path: Path, photo: str) -> None:
    Image.open(photo).convert("P").save(tmp_path / "me.gif")
    for path, detail, suffix in ((photo, "decode", ".png"), (tmp_path / "me.gif", "blend", ".png")):
        face = toy.subjects([str(path)], "whole").photos[0]
        assert photo_suffix(face, detail) == suffix
    save_photo(Image.new("RGB", (32, 32)), face, tmp_path / "small.png")
    assert Image.open(tmp_path / "small.png").size == (32, 32)


def test_blending_keeps_the_input_outside_the_edit() -> None:
    x, before = torch.rand(2, 3, 32, 32), torch.zeros(2, 3, 32, 32)
    assert torch.equal(paint(x, before, before, "blend"), x)
    after = before.clone()
    after[:, :, 20:24, 10:20] = 1.0
    edited = paint(x, before, after, "blend")
    assert torch.equal(edited[:, :, :15], x[:, :, :15]) and (edited[:, :, 22, 15] == 1).all()
    assert torch.equal(paint(x, before, after, "decode"), after)


def test_sheets_and_animations(tmp_path: Path) -> None:
    grid = blocks([torch.zeros(13, 1, 4, 4), torch.ones(13, 1, 4, 4)], ["a", "b"])
    assert grid.images.shape[:2] == (4, 12) and grid.rows == ["a", "b", "a", "b"]
    assert grid.images[3, 0].mean() == 1 and grid.images[0].sum() == 0
    assert square(torch.zeros(7, 1, 4, 4)).images.shape[:2] == (3, 3) and len(filled(torch.zeros(7, 1, 4, 4), 4)) == 8
    steps = torch.linspace(-1, 1, 3)[:, None, None, None, None].expand(3, 2, 1, 64, 64)
    with Image.open(animate(steps, tmp_path / "a.webp")) as moving:
        assert moving.n_frames == 4 and moving.size == (128, 256)  # there and back; two faces below each other


def test_captions_are_below_the_images() -> None:
    images = torch.ones(2, 3, 1, 8, 8)
    plain, captioned = grid_image(Grid(images)), grid_image(Grid(images, tiles=[["happy .97"] * 3, ["", "x", ""]]))
    assert captioned.height > plain.height
    ink = np.asarray(captioned.convert("L")) < 128
    rows = np.nonzero(ink.any(1))[0]
    assert rows.min() >= 80 and ink[:82].sum() == 0 and ink[82:97].sum() > 0


# What an edit did.


def test_a_face_that_already_has_the_target_is_reported(toy: Toy, photo: str, tmp_path: Path, capsys) -> None:
    label = toy.take("test", range(20)).batch["label"].tolist()
    happy, other = label.index(3), next(i for i, k in enumerate(label) if k != 3)
    request = toy.parse("happy")
    faces = toy.subjects([f"test:{happy}", f"test:{other}", photo], EYES)
    changes = describe_changes(toy, faces, request, toy.target(faces, request))
    assert [change["changed"] for change in changes] == [False, True, True]
    assert [change["source"] for change in changes] == ["known from the data"] * 2 + ["read from its code"]
    assert changes[0]["labels"]["happy"] == 1 and changes[2]["labels"]["happy"] is None
    lines = format_changes(toy, request, changes)
    assert len(lines) == 2 and "already has happy=1 and is unchanged" in lines[0] and "--from neutral" in lines[0]
    call(tmp_path, "edit", f"test:{happy}", "--attr", "happy")
    assert "is unchanged" in capsys.readouterr().out
    call(tmp_path, "edit", f"test:{happy}", "--attr", "happy", "--from", "neutral")
    assert "given by --from" in (said := capsys.readouterr().out) and "unchanged" not in said


JUDGE = GreyJudge("neutral", *COLUMNS[:-1], "Smiling")  # another order than the run's


def test_predictions_of_the_judge_are_written(toy: Toy, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("evaluation.classifier.load", lambda *args, **kwargs: JUDGE)
    call(tmp_path, "strip", "--n", "4", "--judge", "j")
    record = facts(tmp_path / "run/pictures/strip.png")
    faces = toy.subjects(record["faces"])
    expected = [JUDGE.names[k] for k in Judge("j", toy).net.logits((faces.images + 1) * 127.5).argmax(1).tolist()]
    assert [row[0].split(" ")[0] for row in record["predictions"]] == expected  # the first column is the input
    assert [len(row) for row in record["predictions"]] == [8] * 4
    known = faces.batch["label"][:, None] != torch.arange(7)
    assert record["edits"] == known.sum() and f"of {record['edits']} edits as the target" in capsys.readouterr().out
    call(tmp_path, "edit", "test:0", "--attr", "Smiling=1", "--judge", "j")
    assert facts(tmp_path / "run/pictures/edit.png")["predictions"][0].startswith("Smiling ")


def test_edit_metrics_leave_out_faces_of_the_target_class(toy: Toy, monkeypatch) -> None:
    monkeypatch.setattr("evaluation.classifier.load", lambda *args, **kwargs: JUDGE)
    judge, names = Judge("j", toy), ["neutral", "angry", "disgust"]
    grey = lambda k: torch.full((3, 32, 32), 2 * k / 7 - 1)  # noqa: E731 - the judge reads class k of JUDGE.names
    x, source = torch.stack([grey(k) for k in (0, 0, 2, 0)]), torch.tensor([0, 0, 2, 0])
    edited = torch.stack([x, torch.stack([grey(k) for k in (0, 1, 1, 2)]), x])
    facts, grid = edit_metrics(judge, names, x, source, edited)
    by_name = facts["target_accuracy_by_target"]
    assert by_name["angry"] == 0.5 and by_name["neutral"] == by_name["disgust"] == 0 and facts["judge_on_real"] == 1
    assert facts["target_accuracy"] == pytest.approx(1 / 6) and facts["confusion"][1] == [0.25, 0.5, 0.25]
    assert grid.images.shape[:2] == (2, 8)


def test_a_judge_without_the_classes_raises_a_user_error(toy: Toy, monkeypatch) -> None:
    monkeypatch.setattr("evaluation.classifier.load", lambda *args, **kwargs: SimpleNamespace(names=["happy"]))
    with pytest.raises(UserError, match="does not know angry, disgust.*train a judge"):
        Judge("j", toy)


# Folders for the judge.


def test_an_export_of_edits_holds_sources_and_ground_truth(toy: Toy, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call(tmp_path, "export", "--what", "edit", "--n", "5", "--strength", "0.5:1:2", "--out", str(out))
    rows = read_manifest(out)
    edits = [row for row in rows if row.kind == "edit"]
    assert len(edits) == 5 * 7 * 2 and {row.target for row in edits} == set(COLUMNS)
    assert all(bool(row.truth) == (row.strength == 1) for row in edits)
    # Reconstructions of the sources and of every ground truth: what they are compared with.
    base = {row.source for row in rows if row.kind == "reconstruction"}
    assert base == {row.source for row in edits} | {row.truth for row in edits if row.truth}
    own = next(row for row in edits if row.target == row.source_label and row.truth)
    assert np.abs(pixels(out / own.truth).astype(int) - pixels(out / own.source)).max() <= 1
    assert own.source_index.startswith("synthetic:test:")
    assert read_export(out)["base"] == "reconstruction" and read_export(out)["kind"] == "bright"
    words = ("--n", "2", "--attr", "happy", "--detail", "blend", "--out", str(out / "b"))
    call(tmp_path, "export", "--what", "edit", *words)
    assert read_export(out / "b")["base"] == "source"


def test_exports_of_samples_and_reconstructions_repeat(tmp_path: Path) -> None:
    for what, n in (("sample", 9), ("reconstruction", 5)):
        for folder in "ab":
            call(tmp_path, "export", "--what", what, "--n", str(n), "--out", str(tmp_path / what / folder))
        rows = read_manifest(tmp_path / what / "a")
        assert len(rows) == n and all(row.kind == what and bool(row.source) == (what != "sample") for row in rows)
        for row in rows:
            assert (tmp_path / what / "a" / row.file).read_bytes() == (tmp_path / what / "b" / row.file).read_bytes()
        if what == "sample":  # the classes in turn
            assert sorted(row.seed for row in rows) == list(range(9)) and {row.target for row in rows} == set(COLUMNS)


def ask(*text: str):
    return parse_request(text, META["classes"], META["attributes"])


def test_targets_of_a_request_in_the_manifest() -> None:
    table = torch.tensor([[1.0, 0, 1, 0, 0], [0.0, 0, 0, 1, 0]])
    texts = lambda *text: target_texts(ask(*text), table, META)  # noqa: E731
    assert texts("Smiling=flip") == ["Smiling=0", "Smiling=1"]
    assert texts("Smiling=+1.5") == ["Smiling=1"] * 2 and texts("Smiling=-1.5") == ["Smiling=0"] * 2
    assert texts("happy", "Male=1") == ["happy;Male=1"] * 2
    assert texts("happy=0") == ["neutral"] * 2
    assert texts("happy=0.3", "sad=0.6") == ["sad"] * 2  # of a mixture the strongest


def test_requested_labels() -> None:
    nan = float("nan")
    table = torch.tensor([[1.0, 0, 1, 0, 0], [nan, 0, 0, 1, 0], [0, 1, nan, nan, nan]])
    wanted = lambda *text: requested_labels(ask(*text), table, META).nan_to_num(-9)  # noqa: E731
    assert torch.equal(wanted("Smiling=1")[:, 0], torch.ones(3))
    assert torch.equal(wanted("Smiling=1")[:, 1:], table[:, 1:].nan_to_num(-9))  # the others stay
    assert wanted("Smiling=flip")[:, 0].tolist() == [0, -9, 1]  # unknown stays unknown
    assert wanted("sad")[:, 2:].tolist() == [[0, 1, 0]] * 3
    assert wanted("sad=0")[:, 2:].tolist() == [[0, 0, 1]] * 3  # neutral
    part = wanted("sad=0.25")[:, 2:]
    assert part[0].tolist() == [0.75, 0.25, 0] and part[1].tolist() == [0, 1, 0] and (part[2] == -9).all()
    assert table[0].tolist() == [1, 0, 1, 0, 0]  # not written into
    with pytest.raises(UserError, match="no other side"):
        wanted("sad=flip")
    with pytest.raises(UserError, match="cannot do this"):
        wanted("Smiling=+1.0")
    with pytest.raises(UserError, match="no neutral class"):
        requested_labels(ask("sad=0"), table[:, :4], META | {"classes": ["happy", "sad"]})


def test_unknown_labels_are_nan() -> None:
    batch = {"index": torch.arange(3), "label": torch.tensor([1, -1, 2])}
    batch["attr"] = torch.tensor([[1.0, 0.0], [0.0, float("nan")], [1.0, 1.0]])
    table = label_table(batch, META)
    assert label_names(META) == ["Smiling", "Male", "happy", "sad", "neutral"]
    assert table[0].tolist() == [1, 0, 0, 1, 0] and table[2].tolist() == [1, 1, 0, 0, 1]
    assert table[1].isnan().tolist() == [False, True, True, True, True]
    assert label_table(batch, META | {"attributes": [], "classes": []}).shape == (3, 0)


def test_the_ground_truth_is_the_same_person_after_the_request(toy: Toy) -> None:
    cfg, meta = toy.method.cfg.data, toy.meta
    faces = toy.take("test", range(20))
    table, index = toy.labels(faces), faces.batch["index"].numpy()
    truth = lambda *text: ground_truth(DrawnFaces(cfg), meta, index, toy.parse(text), table)  # noqa: E731
    shown = table[:, toy.label_names().index("happy")] == 1
    changed = (truth("happy") != faces.images).flatten(1).any(1)
    assert changed[~shown].all() and not changed[shown].any()
    number = int(torch.nonzero(table[:, 0] == 0)[0])  # not smiling
    drawn = synthetic.factors(
        cfg.seed, index[[number]] - 50 + synthetic.SPLIT_OFFSET["test"] * cfg.per_identity, classes=7
    )
    expected = synthetic.render(synthetic.apply(drawn, "Smiling", np.ones(1)), 32)
    assert torch.equal(truth("Smiling=flip")[number], torch.from_numpy(expected)[0].float() / 127.5 - 1)
    assert truth("happy=0.5", "sad=0.5") is None and truth("Smiling=+1.0") is None


def test_the_answer_of_a_photo_pair_is_the_other_photo_if_it_shows_what_was_asked(toy: Toy, tmp_path: Path) -> None:
    faces = toy.take("test", range(6))
    happy = toy.meta["classes"].index("happy")
    faces.batch |= {"pair_image": faces.images.flip(0), "pair_label": torch.tensor([0, happy, 1, happy, 2, 0])}
    table = toy.labels(faces)
    truth, where = true_answers(faces, toy.meta, toy.parse("happy"), table, None)
    assert where == [1, 3] and torch.equal(truth, faces.batch["pair_image"][[1, 3]])
    assert true_answers(faces, toy.meta, toy.parse("happy=0.5"), table, None)[1] == []  # no photo of half a smile
    assert true_answers(faces, toy.meta, toy.parse("Smiling=1"), table, None)[1] == []
    export_edits(toy, tmp_path / "out", faces, [toy.parse("happy")])
    edits = [row for row in read_manifest(tmp_path / "out") if row.kind == "edit"]
    assert [bool(row.truth) for row in edits] == [False, True, False, True, False, False]
    expected = ((faces.batch["pair_image"][1] + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert np.array_equal(pixels(tmp_path / "out" / edits[1].truth), expected)


def test_roc_auc() -> None:
    label = torch.tensor([0, 0, 1, 1, float("nan")])
    assert roc_auc(torch.tensor([0.1, 0.2, 0.3, 0.4, 9.0]), label) == 1.0
    assert roc_auc(torch.tensor([0.1, 0.3, 0.2, 0.4, 9.0]), label) == 0.75
    assert np.isnan(roc_auc(torch.tensor([0.1]), torch.tensor([1.0])))


def test_joined_faces_keep_their_codes(toy: Toy) -> None:
    """A generated face beside a face of the data is still the one that was drawn."""
    faces = toy.subjects(["seed:2", "test:0"])
    assert torch.equal(toy.codes(faces)["x"][:1], toy.draw([2]).code["x"])
    assert isinstance(faces, Subjects)

"""Unusual files, folders and machines.

Each must give the right result or one message, not a traceback. `docs/testing.md` lists the groups.
"""

import json
import os
import signal
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import data
from data import DataConfig, build_faces
from data.photo import load_face, open_photo
from engine.config import load_config
from engine.errors import UserError
from tests import layouts
from tests.same import start_child, wait_for
from tests.toy import ToyConfig


def picture(seed: int, size: int = 40, grey: bool = False) -> Image.Image:
    """A picture of coarse noise."""
    return Image.fromarray(layouts.pictures(1, size, size, 3, seed)[0]).convert("L" if grey else "RGB")


def put(path: Path, seed: int, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path, **options)
    return path


def fill(root: Path, groups: str | list[str], per_group: int = 6, suffix: str = ".png") -> Path:
    """root/<group>/<k>.png."""
    names = groups.split() if isinstance(groups, str) else groups
    for g, group in enumerate(names):
        for k in range(per_group):
            put(root / group / f"{k}{suffix}", 100 * g + k)
    return root


def folder(root: Path, **options):
    return build_faces(DataConfig(dataset="folder", root=str(root), image_size=32, **options))


def total(faces) -> int:
    return sum(faces.meta[f"num_{part}"] for part in ("train", "val", "test"))


# A. Overwritten inputs, ambiguous names


def export_of(root: Path, names: str = "happy") -> Path:
    return fill(root, names, 1)


def test_two_possible_sources_of_an_edit_are_an_error(tmp_path):
    from scripts.make_manifest import manifest_rows

    edits = tmp_path / "edits"
    put(edits / "happy" / "0001_a.png", 1)
    put(tmp_path / "sources" / "sad" / "0001.png", 2)
    put(tmp_path / "sources" / "neutral" / "0001.png", 3)
    with pytest.raises(UserError, match="2 sources have this name"):
        manifest_rows(edits, tmp_path / "sources", "edit")


def test_sources_keep_their_label_and_pixels(tmp_path):
    from scripts.make_manifest import manifest_rows

    edits, sources = tmp_path / "edits", tmp_path / "sources"
    put(edits / "happy" / "0001_a.png", 1)
    put(edits / "happy" / "0002_a.png", 1)
    put(sources / "sad" / "0001.png", 2)
    put(sources / "neutral" / "0002.png", 3)
    put(edits / "happy" / "._0001_a.png", 9)
    rows = {row.file: row for row in manifest_rows(edits, sources, "edit")}
    assert {row.source_label for row in rows.values()} == {"sad", "neutral"} and len(rows) == 2
    found = np.asarray(Image.open(edits / rows["happy/0001_a.png"].source))
    np.testing.assert_array_equal(found, np.asarray(picture(2)))
    put(sources / "sad" / "0001.png", 7)  # another picture under the name of the copy
    with pytest.raises(UserError, match="exists and differs from"):
        manifest_rows(edits, sources, "edit")


def test_another_manifest_is_not_overwritten(tmp_path, capsys):
    from scripts.make_manifest import main

    export_of(tmp_path)
    (tmp_path / "manifest.csv").write_text("mine")
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert (tmp_path / "manifest.csv").read_text() == "mine" and "move or delete it" in capsys.readouterr().err


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    from engine.files import atomic_dir

    put(tmp_path / "photos" / "mine.jpg", 1)
    with pytest.raises(UserError, match="Delete it or choose another folder"), atomic_dir(tmp_path / "photos"):
        pass
    assert (tmp_path / "photos" / "mine.jpg").is_file()


def test_two_images_with_one_name_in_a_zip_are_an_error(tmp_path):
    layouts.write_celeba(tmp_path, archive=True)
    with zipfile.ZipFile(tmp_path / "img_align_celeba.zip", "a") as archive:
        archive.writestr("img_celeba/000001.jpg", layouts.encoded(layouts.pictures(1, 90, 90)[0]))
    with pytest.raises(UserError, match="two images have the same name"):
        celeba(tmp_path)


def test_a_sketch_of_two_faces_is_an_error(tmp_path):
    put(tmp_path / "faces" / "happy" / "a.png", 1)
    put(tmp_path / "faces" / "happy" / "a.jpg", 2)
    put(tmp_path / "faces" / "happy" / "b.jpg", 3)
    put(tmp_path / "sketches" / "happy" / "a.png", 4)
    with pytest.raises(UserError, match="belongs to two faces"):
        folder(tmp_path / "faces", sketch=str(tmp_path / "sketches"))


def test_landmarks_of_two_images_are_an_error(tmp_path):
    from data.landmarks import points_from_folder

    np.save(tmp_path / "0.npy", np.zeros((5, 2)))
    with pytest.raises(UserError, match="belongs to two images"):
        points_from_folder(tmp_path, ["happy/0.png", "sad/0.png"], np.array([[0, 0, 9, 9]] * 2))


@pytest.mark.parametrize("out", ["edits", "."])
def test_a_baseline_does_not_overwrite_its_input(tmp_path, out):
    from evaluation.baselines import export_baseline

    put(tmp_path / "edits" / "a.png", 1)
    (tmp_path / "edits" / "manifest.csv").write_text(HEADER + "a.png,edit,a.png,,,happy,,,1.0,0\n")
    for name in ("edits/export.json", "export.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="contains the input"):
        export_baseline([tmp_path / "edits"], "no-edit", None, tmp_path / out)
    assert (tmp_path / "edits" / "a.png").is_file()


@pytest.mark.parametrize("name", ["export.json", "config.yaml"])
def test_metrics_are_not_written_over_inputs(tmp_path, name, capsys):
    from evaluation.run import main

    (tmp_path / name).write_text("mine")
    with pytest.raises(SystemExit):
        main(["--fake", str(tmp_path), "--judge", str(tmp_path), "--out", str(tmp_path / name)])
    assert (tmp_path / name).read_text() == "mine" and "--out" in capsys.readouterr().err


# B. Wrong data, wrong metrics


def celeba(root: Path, **options):
    return build_faces(DataConfig(dataset="celeba", root=str(root), image_size=32, **options))


@pytest.mark.parametrize("dataset", ["folder", "celeba", "fer2013"])
def test_overwritten_pictures_make_a_new_pack(tmp_path, dataset):
    if dataset == "celeba":
        layouts.write_celeba(tmp_path)
        path = tmp_path / "img_align_celeba" / "000002.jpg"
    else:
        path = fill(tmp_path, "happy sad") / "happy" / "0.png"
    cfg = DataConfig(dataset=dataset, root=str(tmp_path), image_size=32)
    before = build_faces(cfg).meta["fingerprint"]
    picture(99, 200).save(path)
    assert build_faces(cfg).meta["fingerprint"] != before


@pytest.mark.parametrize("groups", ["1 2 3 4 5 6 7", "0 1 2 3 4 5 6 7", "00000", "train/1 train/2 test/1 test/2"])
def test_numbered_folders_without_classes_are_an_error(tmp_path, groups):
    with pytest.raises(UserError, match="is a number.*data.classes"):
        folder(fill(tmp_path, groups, 2))


RAF = ["surprise", "fear", "disgust", "happy", "sad", "angry", "neutral"]


@pytest.mark.parametrize("classes", [RAF, [f"{k + 1}={name}" for k, name in enumerate(RAF)]])
def test_data_classes_defines_numbered_folders(tmp_path, classes, capsys):
    fill(tmp_path, "1 2 3 4 5 6 7", 4)
    pack = folder(tmp_path, classes=classes, merge_val=True)
    assert pack.meta["classes"] == RAF and "1 surprise" in capsys.readouterr().err
    for row, label in zip(pack.train.rows, pack.train.labels["label"], strict=True):
        assert RAF[label] == RAF[row // 4]  # rows lie in the order 1/0 .. 7/3
    with pytest.raises(UserError, match="is a number"):
        folder(tmp_path, classes=RAF[:3])


@pytest.mark.parametrize("text", ["faces #2", "!x", "@x", "[x", "%a", "a: b", "*", "&a", "'q'", "null", "(s[0-9]+)/"])
def test_texts_on_the_command_line_are_not_parsed_as_yaml(text):
    from vae.config import Config

    assert load_config(Config, None, [f"data.root={text}"]).data.root == text
    assert load_config(Config, None, ["data.identity_regex=#([0-9]+)"]).data.identity_regex == "#([0-9]+)"


def test_lists_numbers_and_booleans_are_parsed_as_yaml():
    from vae.config import Config

    found = load_config(
        Config, None, ["data.crop=[1, 2, 41, 42]", "data.classes=[happy, sad]", "data.flip=none", "data.pair=false"]
    )
    assert found.data.crop == [1, 2, 41, 42] and found.data.classes == ["happy", "sad"]
    assert load_config(Config, None, ["data.crop=140"]).data.crop_box() == 140
    assert load_config(Config, None, ["data.root="]).data.root == ""


def as_16_bit(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(Image.fromarray(np.tile(np.arange(40, dtype=np.uint8) * 6, (40, 1))))
    return image


def transparent_colour(image: Image.Image) -> Image.Image:
    image.info["transparency"] = image.getpixel((3, 3))
    return image


FORMS = {
    "16 bit": (as_16_bit, "png"),
    "transparent": (with_alpha, "png"),
    "one transparent colour": (transparent_colour, "png"),
    "grey and transparent": (lambda x: x.convert("LA"), "png"),
    "palette": (lambda x: x.convert("P"), "gif"),
    "four inks": (lambda x: x.convert("CMYK"), "tif"),
    "float 0 .. 1": (lambda x: Image.fromarray(np.float32(np.asarray(x.convert("L")) / 255)), "tif"),
    "float 0 .. 255": (lambda x: Image.fromarray(np.float32(x.convert("L"))), "tif"),
    "32 bit": (lambda x: Image.fromarray(np.asarray(x.convert("L")).astype(np.int32) * 257), "tif"),
    "black and white": (lambda x: x.convert("1"), "png"),
}


@pytest.mark.parametrize("form", FORMS)
def test_packs_photos_and_the_judge_decode_to_the_same_pixels(tmp_path, form):
    from evaluation.folder import read_images

    change, suffix = FORMS[form]
    path = tmp_path / "happy" / f"x.{suffix}"
    path.parent.mkdir()
    image = change(picture(1))
    image.save(path, **({"transparency": image.info["transparency"]} if form.startswith("one") else {}))
    photo = np.asarray(open_photo(path))
    packed = data.READERS["folder"](DataConfig(dataset="folder", root=str(tmp_path))).read(0)
    judged = read_images([path])[0].numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(np.broadcast_to(packed, photo.shape), photo)
    np.testing.assert_array_equal(judged, packed)
    if form in ("16 bit", "float 0 .. 1", "float 0 .. 255", "32 bit", "grey and transparent"):
        np.testing.assert_array_equal(photo[..., 0], np.asarray(picture(1).convert("L")))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_every_reader_applies_the_exif_orientation(tmp_path, suffix):
    from evaluation.folder import read_images

    exif = Image.Exif()
    exif[0x0112] = 6
    upright = picture(3).resize((40, 24))
    path = tmp_path / "img_align_celeba" / f"a.{suffix}"
    path.parent.mkdir()
    upright.transpose(Image.Transpose.ROTATE_90).save(
        path, exif=exif, **({"lossless": True} if suffix == "webp" else {})
    )
    for array in (np.asarray(open_photo(path)), read_images([path])[0].numpy().transpose(1, 2, 0)):
        assert array.shape == (24, 40, 3)
        assert np.abs(array.astype(int) - np.asarray(upright)).mean() < 20
    assert data.READERS["celeba"](DataConfig(dataset="celeba", root=str(tmp_path))).read(0).shape == (24, 40, 3)


def test_links_are_followed_once_and_loops_end(tmp_path, capsys):
    fill(tmp_path / "elsewhere", "a b", 5)
    root = fill(tmp_path / "faces", "sad neutral", 5)
    (root / "happy").symlink_to(tmp_path / "elsewhere" / "a")
    (root / "sad" / "session").symlink_to(tmp_path / "elsewhere" / "b")
    (root / "neutral" / "one.png").symlink_to(root / "sad" / "0.png")
    (root / "neutral" / "broken.png").symlink_to(tmp_path / "nothing.png")
    (root / "neutral" / "loop").symlink_to(root)
    (root / "neutral" / "own").symlink_to(root / "sad")
    fill(tmp_path, ["outer"], 1)
    (tmp_path / "outer" / "back").symlink_to(root)
    (root / "neutral" / "outer").symlink_to(tmp_path / "outer")
    (root / "neutral" / "again").symlink_to(tmp_path / "outer")
    faces = folder(root, merge_val=True)
    said = capsys.readouterr().err
    assert "1 broken links" in said and "links to folders that are read anyway" in said
    counts = np.sum([faces.meta["class_counts"][part] for part in ("train", "test")], axis=0)
    assert dict(zip(faces.meta["classes"], counts.tolist(), strict=True)) == {"happy": 5, "sad": 10, "neutral": 7}


def test_every_suffix_is_read_or_counted(tmp_path, capsys):
    for k, suffix in enumerate((".jfif", ".jpe", ".JPG", ".gif", ".png", ".avif")):
        kind = {".jfif": "JPEG", ".jpe": "JPEG", ".JPG": "JPEG", ".gif": "GIF", ".avif": "AVIF"}.get(suffix, "PNG")
        put(tmp_path / "happy" / f"a{suffix}", k, format=kind)
    put(tmp_path / "sad" / "none", 8, format="PNG")
    put(tmp_path / "sad" / "b.png", 9)
    (tmp_path / "sad" / "c.heic").write_bytes(b"x")
    assert total(folder(tmp_path)) == 7
    said = capsys.readouterr().err
    assert "1 .heic files" in said and "1 files without a suffix" in said


def test_an_unreadable_folder_is_counted(tmp_path, monkeypatch, capsys):
    fill(tmp_path, "happy sad/closed sad")
    real = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert total(folder(tmp_path)) == 12 and "1 unreadable folders" in capsys.readouterr().err


NESTED = {
    "one folder deeper": ("lfw/p1 lfw/p2 lfw/p3 lfw/p4", "identity", 4),
    "two folders deeper": ("a/b/p1 a/b/p2 a/b/p3 a/b/p4", "identity", 4),
    "a split that is none": ("train/p1 test/p1 holdout/p1", "identity", "holdout"),
    "another word for a split": ("train/happy extra_train/happy", "expression", "extra_train"),
    "classes one folder deeper": ("archive/train/happy archive/test/happy", "expression", 1),
    "persons in sessions": ("p1/s1 p2/s1 p2/s2", "identity", 2),
}


@pytest.mark.parametrize("case", NESTED)
def test_nested_folders_are_read_or_an_error(tmp_path, case):
    groups, kind, expected = NESTED[case]
    fill(tmp_path, groups, 4)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            folder(tmp_path, folders=kind)
        return
    meta = folder(tmp_path, folders=kind).meta
    assert (meta["identities"] if kind == "identity" else len(meta["classes"])) == expected


def test_a_root_with_only_one_person_is_an_error(tmp_path):
    fill(tmp_path, "lfw/anna lfw/bert lfw/carl")
    put(tmp_path / "lfw" / "overview.png", 1)
    with pytest.raises(UserError, match="all 19 images would be one person, 'lfw'"):
        folder(tmp_path, folders="identity")


def test_images_outside_class_folders_are_counted_or_an_error(tmp_path, capsys):
    fill(tmp_path, "happy sad")
    put(tmp_path / "loose.png", 1)
    assert total(folder(tmp_path)) == 12 and "1 images outside the class folders" in capsys.readouterr().err
    put(tmp_path / "flat" / "a.png", 1)
    with pytest.raises(UserError, match="1 images are not in a class folder"):
        folder(tmp_path / "flat")


def test_a_set_is_grey_only_if_all_pictures_are_grey(tmp_path):
    for i in range(64):
        path = tmp_path / "happy" / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        picture(i, grey=i % 4 == 0).save(path)
    assert folder(tmp_path).meta["channels"] == 3
    for path in (tmp_path / "happy").iterdir():
        Image.open(path).convert("L").save(path)
    assert folder(tmp_path).meta["channels"] == 1


def drawn_celeba(root: Path, place: tuple[int, int]) -> np.ndarray:
    """Drawn faces on a larger picture at `place`, without landmarks; the mean of their true eyes in [-1, 1]."""
    from data import synthetic

    drawn = synthetic.factors(0, np.arange(0, 120, 10))
    (root / "img_align_celeba").mkdir(parents=True)
    for k, face in enumerate(synthetic.render(drawn, 160).transpose(0, 2, 3, 1)):
        page = np.full((224, 224, 3), 128, np.uint8)
        page[place[1] : place[1] + 160, place[0] : place[0] + 160] = face
        Image.fromarray(page).save(root / "img_align_celeba" / f"{k + 1:06d}.png")
    points = synthetic.landmarks(drawn)
    eyes = np.stack([points[:, 36:42].mean((0, 1)), points[:, 42:48].mean((0, 1))])
    return ((eyes + 1) * 80 + place) / 112 - 1


def test_eyes_are_measured_if_there_are_no_landmarks(tmp_path, capsys):
    pytest.importorskip("cv2", reason="the face finder is optional")
    truth = drawn_celeba(tmp_path, (20, 10))
    meta = celeba(tmp_path, crop="full").meta
    np.testing.assert_allclose(meta["eyes"], truth, atol=0.06)
    assert "eyes measured at" in capsys.readouterr().err
    assert celeba(tmp_path, crop="full", eyes=[-0.3, 0.0, 0.3, 0.0]).meta["eyes"] == [[-0.3, 0.0], [0.3, 0.0]]


def case_of(labels: list[int], targets: list[str]):
    """A Case of random pictures: real faces of classes a, b and samples for targets."""
    from types import SimpleNamespace

    from evaluation.eval_data import EvalData, Predictions
    from evaluation.folder import Export
    from evaluation.manifest import Row
    from evaluation.real import Real, _labels

    g = torch.Generator().manual_seed(0)
    draw = lambda n: torch.randint(0, 256, (n, 3, 16, 16), generator=g, dtype=torch.uint8)  # noqa: E731
    n, m = len(labels), len(targets)
    real = Real("r", draw(n), draw(4), False, **_labels({"label": torch.tensor(labels)}, n), classes=["a", "b"])
    rows = [Row(f"{i}.png", "sample", target=target) for i, target in enumerate(targets)]
    nothing = torch.full((m,), -1)
    export = Export([], rows, draw(m), torch.arange(m), nothing, nothing, nothing, nothing)
    read = lambda k: {"features": torch.rand(k, 8, generator=g), "logits": torch.randn(k, 3, generator=g)}  # noqa: E731
    judge = SimpleNamespace(heads=("attributes",), names=["x", "y", "z"], classes=[], attributes=["x", "y", "z"])
    judge.origin = SimpleNamespace(run="j")
    return EvalData(export, real, [Predictions(judge, read(m), read(n), read(4))])


def test_a_condition_with_few_real_faces_is_left_out_with_a_note():
    from evaluation.diversity import intra_class_diversity

    case = case_of([0] * 20 + [1] * 3, ["a"] * 10 + ["b"] * 10)
    found = intra_class_diversity(case, "sample", *case.features()[:3])
    assert "mean over 1" in found[0].name and any("for b: left out" in note for note in case.notes)
    case = case_of([-1] * 20, ["a"] * 10)
    assert intra_class_diversity(case, "sample", *case.features()[:3])
    assert any("compared with all real faces" in note for note in case.notes)


def test_attribute_judges_have_an_inception_score():
    from evaluation.distribution import attribute_score, scores

    found = scores(case_of([0] * 60, ["a"] * 60))
    assert len(found) == 1 and "attributes of j" in found[0].name
    assert attribute_score(torch.zeros(10, 3)) == pytest.approx(1.0)
    half = torch.tensor([[50.0], [-50.0]]).repeat(5, 1)
    assert attribute_score(half) == pytest.approx(2.0, abs=1e-6)


def test_predictions_of_rare_attributes_are_calibrated():
    from evaluation.classifier import Classifier
    from evaluation.config import ClassifierConfig

    cfg = ClassifierConfig()
    cfg.model.heads, cfg.model.widths = ["attributes"], [8, 8]
    meta = {"classes": [], "attributes": ["rare"], "landmarks": 0, "channels": 1, "image_size": 32, "dataset": "t"}
    judge = Classifier(cfg, meta | {"attribute_share": [0.1]}).eval()
    out = {"attributes": torch.tensor([[0.5]])}  # the weighted loss's best logit where p = e^.5 / 4 / (1 + e^.5 / 4)
    assert judge._logits(out).item() == pytest.approx(0.5 - np.log(4), abs=1e-5)


# C. Lost work


@pytest.mark.parametrize("persons, images", [(1, 12), (2, 6), (3, 1), (1, 3)])
def test_few_persons_are_split_into_three_parts(tmp_path, persons, images):
    fill(tmp_path, [f"p{k}" for k in range(persons)], images)
    meta = folder(tmp_path, folders="identity").meta
    assert min(meta["num_train"], meta["num_val"], meta["num_test"]) >= 1


def test_an_empty_validation_set_is_an_error_before_the_first_step(tmp_path):
    import engine
    from tests.toy import Toy, ToySet

    cfg = load_config(ToyConfig, None, ["train.total_steps=3"])
    (tmp_path / "config.yaml").write_text("")
    run = engine.Run(cfg, tmp_path, torch.device("cpu"))
    faces, empty = ToySet(4), ToySet(4, 0)
    method = Toy(cfg, {})
    method.step = lambda *a: pytest.fail("a step was made")
    with pytest.raises(UserError, match="validation set has 0 images.*train.validate_every=0"):
        engine.fit(run, method, faces, empty)


def toy_run(tmp_path: Path, *more: str) -> list[str]:
    """The command line of a toy run that saves often."""
    config = tmp_path / "toy.yaml"
    config.write_text("train: {total_steps: 20, batch_size: 4, save_every: 5, log_every: 1, sample_every: 10}\n")
    return ["--config", str(config), "--run-dir", str(tmp_path / "run"), *more]


@pytest.mark.parametrize(
    "name", ["step_0000005_backup.pt", "step_5.pt", "step_٥.pt", "step_copy.pt", "step_0000004.pt"]
)
def test_other_files_in_the_checkpoint_folder_are_ignored(tmp_path, name):
    from engine.checkpoint import checkpoints, find_checkpoint
    from tests import toy

    toy.main(toy_run(tmp_path, "train.total_steps=10"))
    folder_ = tmp_path / "run" / "checkpoints"
    (folder_ / name).mkdir() if name == "step_0000004.pt" else (folder_ / name).write_bytes(b"mine")
    toy.main(toy_run(tmp_path))
    assert find_checkpoint(tmp_path / "run").is_file() and (folder_ / name).exists()
    assert checkpoints(tmp_path / "run")[-1].name == "step_0000020.pt"


@pytest.mark.parametrize("console", ["closed", "full", "none"])
def test_a_closed_or_full_console_does_not_stop_training(tmp_path, monkeypatch, console):
    from tests import toy

    for name in ("stdout", "stderr"):
        stream = open("/dev/full" if console == "full" else os.devnull, "w", buffering=1)  # noqa: SIM115
        if console == "closed":
            stream.close()
        monkeypatch.setattr(sys, name, None if console == "none" else stream)
    toy.main(toy_run(tmp_path))
    assert (tmp_path / "run" / "checkpoints" / "step_0000020.pt").is_file()


def test_a_closed_pipe_does_not_stop_training(tmp_path):
    """As in `train.py | head -n 1`."""
    from tests import toy

    reader, writer = os.pipe()

    def main() -> None:
        os.close(reader)
        sys.stdout = sys.stderr = os.fdopen(writer, "w", buffering=1)
        toy.main(toy_run(tmp_path))

    child = start_child(main)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.readline()
    assert wait_for(child) == 0
    assert (tmp_path / "run" / "checkpoints" / "step_0000020.pt").is_file()


def test_sighup_saves_a_checkpoint(tmp_path, monkeypatch):
    from tests import toy

    step = toy.Toy.step

    def hang_up(self, batch, number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGHUP)
        return step(self, batch, number)

    before = signal.signal(signal.SIGHUP, lambda *a: pytest.fail("not caught"))
    monkeypatch.setattr(toy.Toy, "step", hang_up)
    try:
        with pytest.raises(SystemExit) as caught:
            toy.main(toy_run(tmp_path))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert caught.value.code == 129 and (tmp_path / "run" / "checkpoints" / "step_0000003.pt").is_file()


def test_unwritable_logs_and_grids_do_not_stop_training(tmp_path, monkeypatch, capsys):
    import torch.utils.tensorboard as board

    import engine.loop
    from tests import toy

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(board.SummaryWriter, "add_scalar", full)
    monkeypatch.setattr(engine.loop, "save_grid", full)
    toy.main(toy_run(tmp_path))
    assert "The run continues without it" in capsys.readouterr().out
    assert (tmp_path / "run" / "checkpoints" / "step_0000020.pt").is_file()


def test_a_full_disk_is_a_user_error(tmp_path, monkeypatch, capsys):
    from tests import toy

    toy.main(toy_run(tmp_path, "train.total_steps=10"))

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit) as caught:
        toy.main(toy_run(tmp_path))
    assert caught.value.code == 2 and "Free some space" in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoints" / "step_0000010.pt").is_file()


def test_a_disk_that_fills_during_a_checkpoint_is_a_user_error(tmp_path):
    """torch answers a refused write with an error of its own."""
    import resource

    from engine.checkpoint import save_checkpoint

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(UserError, match="step_1.pt: cannot be written .*Free some space"):
            save_checkpoint(tmp_path / "step_1.pt", {"a": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


# D. Machines


def test_a_run_starts_without_git(tmp_path, monkeypatch):
    import engine.run
    from tests import toy

    def absent(*args, **options):
        raise FileNotFoundError(2, "No such file or directory", "git")

    monkeypatch.setattr(engine.run.subprocess, "run", absent)
    toy.main(toy_run(tmp_path))
    assert json.loads((tmp_path / "run" / "environment.json").read_text())[0]["commit"] == ""


def test_a_run_starts_without_file_locks(tmp_path, monkeypatch, capsys):
    import engine.files
    from tests import toy

    def refuse(*args):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(engine.files.fcntl, "flock", refuse)
    toy.main(toy_run(tmp_path))
    assert "cannot be locked (No locks available)" in capsys.readouterr().err


def test_a_file_system_may_lack_fsync_of_folders(tmp_path, monkeypatch):
    from engine.files import atomic_text

    def refuse(number):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    atomic_text(tmp_path / "a.txt", "a")
    assert (tmp_path / "a.txt").read_text() == "a"


@pytest.mark.parametrize("number, remedy", [(13, "permissions"), (28, "Free some space"), (30, "permissions")])
def test_write_errors_name_the_right_remedy(tmp_path, monkeypatch, number, remedy):
    from engine.files import atomic_text

    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match=remedy):
        atomic_text(tmp_path / "a.txt", "a")


def test_an_unknown_home_folder_is_a_user_error(tmp_path, monkeypatch):
    def unknown(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    for options in ({"cache": ""}, {"root": "~/faces"}):
        with pytest.raises(UserError, match="home folder"):
            folder(options.get("root", tmp_path), **{k: v for k, v in options.items() if k != "root"})


@pytest.mark.parametrize("place", ["file/run", "/proc/run", "x" * 300])
def test_an_impossible_run_directory_is_a_user_error(tmp_path, place, capsys):
    from tests import toy

    (tmp_path / "file").write_text("")
    command = toy_run(tmp_path)
    command[3] = str(tmp_path / place) if not place.startswith("/") else place
    with pytest.raises(SystemExit) as caught:
        toy.main(command)
    said = capsys.readouterr().err
    assert caught.value.code == 2 and said.startswith("error: ") and len(said.splitlines()) == 1


def test_a_file_without_permission_is_a_user_error(capsys):
    from engine.errors import exit_on_user_error

    with pytest.raises(SystemExit), exit_on_user_error():
        raise PermissionError(13, "Permission denied", "/data/faces")
    assert "/data/faces: Permission denied" in capsys.readouterr().err
    with pytest.raises(OSError, match="ours"), exit_on_user_error():
        raise OSError("ours")  # no file's name: a fault of the program keeps its traceback


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b'{"temperature": 1}'])
def test_damaged_test_metrics_are_a_user_error(tmp_path, content):
    from evaluation.classifier import read_test_metrics

    (tmp_path / "test_metrics.json").write_bytes(content)
    with pytest.raises(UserError, match="test_metrics.json: is damaged"):
        read_test_metrics(tmp_path)


# E. Files


def tiff_block(*entries: tuple[int, int, int, bytes]) -> bytes:
    body = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", 0) + b"\xff" * 64


TURN = (0x0112, 3, 1, struct.pack("<HH", 6, 0))
FAR = struct.pack("<I", 8 + 2 + 24 + 4)
EXIF = {
    "signed rational": (TURN, (0x011A, 10, 1, FAR)),
    "two values": (TURN, (0x011A, 5, 2, FAR)),
    "byte as text": (TURN, (0x8298, 1, 1, b"\5\0\0\0")),
    "long as version": (TURN, (0x9000, 4, 1, struct.pack("<I", 220))),
    "directory nowhere": (TURN, (0x8825, 4, 1, struct.pack("<I", 99_999_999))),
    "directory of two": (TURN, (0x8825, 4, 2, FAR)),
    "directory of text": (TURN, (0x8769, 2, 4, b"abc\0")),
    "cut short": (TURN, (0x010F, 2, 400, FAR)),
    "text as turn": ((0x0112, 2, 2, b"6\0\0\0"), (0x0131, 2, 4, b"abc\0")),
    "bytes as turn": ((0x0112, 7, 1, b"\6\0\0\0"), (0x0131, 2, 4, b"abc\0")),
}


@pytest.mark.parametrize("case", EXIF)
def test_unusual_exif_is_read_by_every_reader(tmp_path, case):
    from evaluation.folder import read_images

    path = tmp_path / "happy" / "x.jpg"
    path.parent.mkdir()
    picture(1).resize((40, 24)).save(path, exif=tiff_block(*EXIF[case]))
    photo = np.asarray(open_photo(path))
    assert photo.shape == ((24, 40, 3) if "as turn" in case else (40, 24, 3))
    np.testing.assert_array_equal(read_images([path])[0].numpy().transpose(1, 2, 0), photo)
    packed = data.READERS["folder"](DataConfig(dataset="folder", root=str(tmp_path), crop=24)).read(0)
    np.testing.assert_array_equal(packed, photo)


DAMAGED = {
    "empty": b"",
    "a page": b"<html>404</html>",
    "half": layouts.encoded(layouts.pictures(1, 64, 64)[0])[:900],
    "raw": b"II*\0\x10\0\0\0CR\2\0" + b"\0" * 200,
    "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 200,
    "negative": None,
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_file_that_is_not_a_picture_is_a_user_error(tmp_path, case):
    from evaluation.folder import read_images

    path = tmp_path / "x.tif"
    if DAMAGED[case] is None:
        Image.fromarray(-np.float32(picture(1).convert("L"))).save(path)
    else:
        path.write_bytes(DAMAGED[case])
    for read in (open_photo, lambda p: read_images([p])):
        with pytest.raises(UserError, match="x.tif"):
            read(path)


YAML = {
    "a list as key": "? [train, x]\n: 5\n",
    "a block as key": "data:\n  ? {a: b}\n  : 5\n",
    "deep": "data: " + "[" * 500 + "]" * 500 + "\n",
    "UTF-16": "data: {}\n".encode("utf-16"),
    "Latin-1": "# für mich\ndata: {}\n".encode("latin-1"),
    "a list": "- a\n",
    "a word": "hello\n",
    "two documents": "data: {}\n---\ndata: {}\n",
    "a tag": "data: {root: !!python/object/apply:os.system ['false']}\n",
    "itself": "data: &d\n  root: *d\n",
    "tabs": "data:\n\troot: x\n",
    "a zero byte": "data: {}\n\0",
    "a wrong type": "data: {image_size: large}\n",
    "an unknown key": "data: {imagesize: 32}\n",
}


def readers_of_yaml(path: Path) -> dict:
    from data.landmarks import main as landmarks
    from engine.config import read_system
    from evaluation.real import open_real
    from scripts.pack import main as pack
    from vae.config import Config

    return {
        "train": lambda: load_config(Config, path),
        "system": lambda: read_system(path, (), ["a"]),
        "real": lambda: open_real(path, DataConfig(), 10),
        "pack": lambda: pack(["--config", str(path)]),
        "landmarks": lambda: landmarks(["--config", str(path)]),
    }


@pytest.mark.parametrize("reader", ["train", "system", "real", "pack", "landmarks"])
@pytest.mark.parametrize("case", YAML)
def test_invalid_yaml_is_a_user_error_in_every_reader(tmp_path, case, reader, capsys):
    path = tmp_path / "c.yaml"
    path.write_bytes(YAML[case] if isinstance(YAML[case], bytes) else YAML[case].encode())
    with pytest.raises((UserError, SystemExit)) as caught:
        readers_of_yaml(path)[reader]()
    text = str(caught.value) if isinstance(caught.value, UserError) else capsys.readouterr().err
    assert "c.yaml" in text and "Traceback" not in text and len(text.strip().splitlines()) == 1


def test_yaml_with_a_byte_order_mark_and_overrides_is_read(tmp_path, capsys):
    from data.landmarks import main as landmarks
    from scripts.pack import data_config

    path = tmp_path / "c.yaml"
    path.write_text("\ufeffdata: {dataset: folder, image_size: 32}\nmodel: {anything: 1}\n")
    assert data_config(path, ["data.root=a #1"]).root == "a #1"
    with pytest.raises(SystemExit):
        landmarks(["--config", str(path), f"data.root={tmp_path / 'here'}"])
    assert "here: there are no image files" in capsys.readouterr().err


HEADER = "file,kind,source,source_index,source_label,target,truth,landmarks,strength,seed\n"
MANIFESTS = {
    "plain": lambda text: text.encode(),
    "BOM": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "semicolons": lambda text: text.replace(",", ";").replace("1.0", "1,0").encode(),
    "tabs": lambda text: text.replace(",", "\t").encode(),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "CR": lambda text: text.replace("\n", "\r").encode(),
    "whole seeds": lambda text: text.replace(",0\n", ",0.0\n").encode(),
    "quoted": lambda text: "\n".join(",".join(f'"{c}"' for c in r.split(",")) for r in text.splitlines()).encode(),
    "capitals": lambda text: text.replace(HEADER, HEADER.upper()).encode(),
    "Latin-1": lambda text: text.encode("latin-1"),
    "Windows paths": lambda text: text.replace("a/", "a\\").encode(),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifests_in_every_csv_format_are_equal(tmp_path, case):
    from evaluation.manifest import Row, read_manifest

    names = ["a/é.png", "a/b c.png"]
    for k, name in enumerate(names):
        put(tmp_path / name, k)
    text = HEADER + "".join(f"{name},sample,,,,happy,,,1.0,0\n" for name in names)
    (tmp_path / "manifest.csv").write_bytes(MANIFESTS[case](text))
    assert read_manifest(tmp_path) == [Row(name, "sample", target="happy") for name in names]


@pytest.mark.parametrize("change, said", [
    (lambda t: t + "a.png,sample,,,,,,,1.0,0,x,y\n", "line 3"),
    (lambda t: t.replace("1.0", "1,0"), "line 2"),
    (lambda t: t.replace("1.0", "nan"), "line 2"),
    (lambda t: t.replace(",0\n", ",0.5\n"), "line 2"),
    (lambda t: t.replace(",0\n", ",inf\n"), "line 2"),
    (lambda t: t.replace("truth,", ""), "'truth' is missing"),
    (lambda t: "", "'file' is missing"),
    (lambda t: t + '"', "expected a CSV table|line 3"),
    (lambda t: "\0" * 50, "not a text file"),
])  # fmt: skip
def test_errors_of_a_manifest_name_the_line(tmp_path, change, said):
    from evaluation.manifest import read_manifest

    put(tmp_path / "a.png", 1)
    (tmp_path / "manifest.csv").write_text(change(HEADER + "a.png,sample,,,,,,,1.0,0\n"))
    with pytest.raises(UserError, match=said):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"[1, 2]", b"null", b"{", b"\xff\xfe{", b'{"guides": [1]}', b"[" * 100_000])
def test_an_invalid_export_json_is_a_user_error(tmp_path, content):
    from evaluation.manifest import read_export

    (tmp_path / "export.json").write_bytes(content)
    with pytest.raises(UserError, match="export.json"):
        read_export(tmp_path)


@pytest.mark.parametrize("content", [b"", b"null", b"\xff\xfe\0", b"[1]", b'[{"time": 1}]'])
def test_a_damaged_environment_json_does_not_stop_a_run(tmp_path, content):
    from tests import toy

    toy.main(toy_run(tmp_path, "train.total_steps=10"))
    (tmp_path / "run" / "environment.json").write_bytes(content)
    toy.main(toy_run(tmp_path))
    assert json.loads((tmp_path / "run" / "environment.json").read_text())[-1]["seed"] == 0


@pytest.mark.parametrize(
    "line", [b"\xff\xfe\n", b"null\n", b"[]\n", b'{"loss": 1}\n', b'{"step": "x"}\n', b'{"step": 1']
)
def test_a_damaged_log_does_not_stop_a_run_or_the_table_of_runs(tmp_path, line):
    from scripts.runs import find_runs, table
    from tests import toy

    toy.main(toy_run(tmp_path, "train.total_steps=10"))
    with open(tmp_path / "run" / "log.jsonl", "ab") as file:
        file.write(line)
    assert "run" in table(find_runs([tmp_path]), [])
    toy.main(toy_run(tmp_path))
    rows = [json.loads(row) for row in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 20


def test_a_damaged_config_does_not_stop_the_table_of_runs(tmp_path):
    from scripts.runs import find_runs, table
    from tests import toy

    toy.main(toy_run(tmp_path))
    for text in ("- a", "\t", "train: 1"):
        (tmp_path / "run" / "config.yaml").write_text(text)
        assert "?" in table(find_runs([tmp_path]), [])


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_too_few_real_faces_are_a_user_error(tmp_path, count):
    from evaluation.real import from_folder

    for k in range(count):
        put(tmp_path / f"{k}.png", k)
    with pytest.raises(UserError, match=f"has {count} images"):
        from_folder(tmp_path, 0)


def test_metrics_are_finite_if_all_real_faces_are_equal():
    from evaluation import diversity, pictures

    case = case_of([0] * 20, ["a"] * 10)
    case.real.images[:] = 7
    case.judges[0].real["features"][:] = 1.0
    for part in (diversity, pictures):
        assert all(np.isfinite(metric.value) for metric in part.metrics(case))


@pytest.mark.parametrize("name", ["²", "s²1", "1²", "٣", "①"])
def test_unicode_digits_are_not_numbers(tmp_path, name):
    from data.raw import natural

    assert sorted([name, "a2", "a10"], key=natural)
    fill(tmp_path, [name, "happy"], 3)
    with pytest.raises(UserError, match="not a known expression"):
        folder(tmp_path)
    with pytest.raises(UserError):
        DataConfig(crop=name)


# F. Hidden files, order, messages


LITTER = ["._0.png", ".hidden/0.png", "__MACOSX/0.png", ".ipynb_checkpoints/0-checkpoint.png", "@eaDir/0.png"]


@pytest.mark.parametrize("name", LITTER)
def test_hidden_files_are_ignored(tmp_path, name):
    from evaluation.real import from_folder

    fill(tmp_path / "faces", "happy sad")
    put(tmp_path / "faces" / "happy" / name, 1)
    assert total(folder(tmp_path / "faces")) == 12
    real = from_folder(tmp_path / "faces", 0)
    assert len(real.images) + len(real.train) == 12


@pytest.mark.parametrize("archive", [False, True])
def test_hidden_files_of_celeba_are_ignored(tmp_path, archive):
    layouts.write_celeba(tmp_path, archive=archive)
    if archive:
        with zipfile.ZipFile(tmp_path / "img_align_celeba.zip", "a") as out:
            for name in ("img_align_celeba/._000001.jpg", "__MACOSX/img_align_celeba/000099.jpg", ".x/1.jpg"):
                out.writestr(name, b"mac")
    else:
        (tmp_path / "img_align_celeba" / "._000001.jpg").write_bytes(b"mac")
    assert total(celeba(tmp_path)) == 12


def test_the_order_of_directory_entries_does_not_matter(tmp_path, monkeypatch):
    names = ["A", "a", "01", "1", "a01", "a1"]
    for k, name in enumerate(names):
        put(tmp_path / "happy" / f"{name}.png", k)
    first = folder(tmp_path, cache=str(tmp_path / "c1")).meta["fingerprint"]
    real_walk, real_scan = os.walk, os.scandir

    def backwards(path="."):
        class Listing(list):
            __enter__ = lambda self: self  # noqa: E731
            __exit__ = lambda self, *error: None  # noqa: E731
            close = lambda self: None  # noqa: E731

        return Listing(reversed(sorted(real_scan(path), key=lambda entry: entry.name)))

    monkeypatch.setattr(os, "scandir", backwards)
    monkeypatch.setattr(os, "walk", lambda path: ((a, b, sorted(c, reverse=True)) for a, b, c in real_walk(path)))
    assert folder(tmp_path, cache=str(tmp_path / "c2")).meta["fingerprint"] == first


def test_only_max_images_real_faces_are_decoded(tmp_path, monkeypatch):
    import evaluation.real as real

    for k in range(20):
        put(tmp_path / f"{k:02d}.png", k)
    asked = []
    read = real.read_images
    monkeypatch.setattr(real, "read_images", lambda paths: asked.extend(paths) or read(paths))
    assert len(real.from_folder(tmp_path, 3).images) == 3 and len(asked) == 6


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_celeba_png_files_are_read(tmp_path, kind):
    layouts.write_celeba(tmp_path)
    source, target = tmp_path / "img_align_celeba", tmp_path / "img_align_celeba_png"
    target.mkdir()
    for path in source.iterdir():
        Image.open(path).save(target / f"{path.stem}.png")
        path.unlink()
    source.rmdir()
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "img_align_celeba_png.zip", "w") as out:
            for path in target.iterdir():
                out.write(path, f"img_align_celeba_png/{path.name}")
        for path in target.iterdir():
            path.unlink()
        target.rmdir()
    faces = celeba(tmp_path)
    assert total(faces) == 12 and not np.isnan(faces.train.labels["attr"]).any()


@pytest.mark.parametrize("unpacked", [0, 5])
def test_celeba_uses_the_zip_if_the_folder_is_incomplete(tmp_path, unpacked, capsys):
    layouts.write_celeba(tmp_path, archive=True)
    (tmp_path / "img_align_celeba").mkdir()
    with zipfile.ZipFile(tmp_path / "img_align_celeba.zip") as archive:
        for name in archive.namelist()[:unpacked]:
            archive.extract(name, tmp_path)
    assert total(celeba(tmp_path)) == 12
    assert not unpacked or "has 5 of the 12 images" in capsys.readouterr().err


def test_contradicting_rows_of_celeba_are_an_error(tmp_path):
    layouts.write_celeba(tmp_path)
    path = tmp_path / "list_attr_celeba.txt"
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows, rows[2]]))
    assert total(celeba(tmp_path)) == 12
    flipped = rows[2].replace(" 1", " x").replace("-1", "1").replace(" x", " -1")
    path.write_text("\n".join([*rows, flipped]))
    with pytest.raises(UserError, match="line 15: 000001.jpg is also on line 3"):
        celeba(tmp_path)


def as_csv(rows: list[str], separator: str = ",", quote: str = "", numbered: bool = False) -> str:
    """A table of CelebA as a csv file: its names of columns, then its rows."""
    cells = [["image_id", *rows[1].split()], *(row.split() for row in rows[2:])]
    if numbered:
        cells = [["", *cells[0]], *([str(i), *row] for i, row in enumerate(cells[1:]))]
    return "\n".join(separator.join(f"{quote}{cell}{quote}" for cell in row) for row in cells)


TABLES = {
    "UTF-16": lambda rows: "\n".join(rows).encode("utf-16"),
    "BOM": lambda rows: "\n".join(rows).encode("utf-8-sig"),
    "tabs": lambda rows: "\n".join("\t".join(row.split()) for row in rows).encode(),
    "semicolons": lambda rows: as_csv(rows, ";").encode(),
    "quotes": lambda rows: as_csv(rows, quote='"').encode(),
    "row numbers": lambda rows: as_csv(rows, numbered=True).encode(),
    "floats": lambda rows: as_csv(rows).replace(",1", ",1.0").replace(",-1", ",-1.0").encode(),
    "capital suffixes": lambda rows: "\n".join([*rows[:2], *(r.replace(".jpg", ".JPG") for r in rows[2:])]).encode(),
}


@pytest.mark.parametrize("case", TABLES)
def test_celeba_tables_in_every_format_are_equal(tmp_path, case):
    truth = layouts.write_celeba(tmp_path)
    path = tmp_path / "list_attr_celeba.txt"
    path.write_bytes(TABLES[case](path.read_text().splitlines()))
    reader = data.READERS["celeba"](DataConfig(dataset="celeba", root=str(tmp_path)))
    np.testing.assert_array_equal(reader.labels["attr"], truth["attr"] > 0)
    assert reader.names["attributes"] == layouts.ATTRIBUTES


def fer_pair(root: Path, *names: str) -> None:
    faces = layouts.fer_faces((14, 7, 7))
    parts = {"train.csv": slice(0, 14), "val.csv": slice(14, 21), "test.csv": slice(21, 28)}
    for name in names:
        rows = zip(faces["label"][parts[name]], faces["images"][parts[name]], strict=True)
        layouts.lines(root / name, ["emotion,pixels", *(f"{k},{' '.join(map(str, x.ravel()))}" for k, x in rows)])


def test_fer2013_csv_files_without_usage_are_three_parts(tmp_path, capsys):
    fer_pair(tmp_path, "train.csv", "val.csv", "test.csv")
    meta = build_faces(DataConfig(dataset="fer2013", root=str(tmp_path), image_size=48)).meta
    assert (meta["num_train"], meta["num_val"], meta["num_test"]) == (14, 7, 7)
    assert "has no labels" not in capsys.readouterr().err


def test_fer2013_test_csv_with_labels_keeps_them(tmp_path, capsys):
    fer_pair(tmp_path, "train.csv", "test.csv")
    faces = build_faces(DataConfig(dataset="fer2013", root=str(tmp_path), image_size=48))
    assert (faces.test.labels["label"] >= 0).all() and "has no labels" not in capsys.readouterr().err


def test_an_ignored_csv_file_gives_a_note(tmp_path, capsys):
    layouts.write_fer(tmp_path, layouts.fer_faces(), "fer2013")
    (tmp_path / "val.csv").write_text("emotion,pixels\n")
    build_faces(DataConfig(dataset="fer2013", root=str(tmp_path), image_size=48))
    assert "fer2013.csv is used; val.csv is ignored" in capsys.readouterr().err


def test_a_set_without_training_images_is_a_user_error(tmp_path):
    layouts.write_fer(tmp_path, layouts.fer_faces((0, 7, 7)), "fer2013")
    with pytest.raises(UserError, match="no training image is left"):
        build_faces(DataConfig(dataset="fer2013", root=str(tmp_path), image_size=48))


def test_torchrun_shows_the_message(tmp_path, monkeypatch, capsys):
    from engine.errors import exit_on_user_error

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    with pytest.raises(SystemExit), exit_on_user_error():
        raise UserError("data.root: nothing there")
    found = json.loads((tmp_path / "error.json").read_text())["message"]
    assert "data.root: nothing there" in found["message"] and int(found["extraInfo"]["timestamp"]) > 0


@pytest.mark.parametrize("size, warned", [(30, True), (200, False)])
def test_a_small_face_gives_a_warning(tmp_path, size, warned, capsys):
    picture(1, size).save(tmp_path / "x.png")
    load_face(tmp_path / "x.png", {"image_size": 64, "channels": 3, "eyes": None}, "whole")
    assert ("will be blurred" in capsys.readouterr().err) == warned


def test_characters_outside_the_console_encoding_are_escaped(tmp_path, monkeypatch):
    from engine.errors import exit_on_user_error

    with open(tmp_path / "out", "w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with exit_on_user_error():
            print("é")
            print("end")
    assert (tmp_path / "out").read_text() == "\\xe9\nend\n"


def test_layers_with_replicate_padding_are_not_compiled(monkeypatch):
    from engine import loop

    net = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, padding=1, padding_mode="replicate"), torch.nn.Conv2d(1, 1, 3))
    kept = []
    monkeypatch.setattr(torch.compiler, "disable", lambda forward: kept.append(forward) or forward)
    monkeypatch.setattr(net, "compile", lambda: None)
    loop.compile_network(net, torch.device("cpu"))
    assert len(kept) == 1

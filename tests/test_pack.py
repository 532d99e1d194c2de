"""Packs: made once, complete or not at all, equal to their source; and the rows that a run uses."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data
import data.pack as packs
from data import DataConfig, build_faces
from data.crop import BLACK, FLAT, crop_box, cut, pixel_hash
from data.drawn_reader import DrawnFaces
from data.pack import open_pack
from engine.errors import UserError
from tests import layouts
from tests.same import run_child, start_child, wait_for


@pytest.fixture
def cfg(tmp_path) -> DataConfig:
    """A CelebA of 12 images with a cache of its own."""
    layouts.write_celeba(tmp_path / "raw")
    return DataConfig(dataset="celeba", root=str(tmp_path / "raw"), cache=str(tmp_path / "cache"), image_size=32)


def test_layout_and_content(cfg):
    pack = open_pack(cfg)
    assert sorted(p.name for p in pack.folder.iterdir()) == ["images.npy", "labels.npz", "meta.json"]
    assert isinstance(pack.images, np.memmap)
    assert pack.images.shape == (12, 3, 32, 32) and pack.images.dtype == np.uint8
    first = Image.open(Path(cfg.root) / "img_align_celeba" / "000001.jpg")
    expected = np.asarray(first.crop((15, 35, 163, 183)).resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(pack.images[0].transpose(1, 2, 0).astype(int), expected, atol=1)


@pytest.mark.parametrize("side", [178, 148, 140, 108])
def test_centre_crops_equal_torchvision(side):
    from torchvision.transforms.functional import center_crop

    x = layouts.pictures(1, 218, 178)[0]
    box = crop_box(178, 218, side, 178)
    ours = cut(x, box, side, 3)
    np.testing.assert_array_equal(ours, np.asarray(center_crop(Image.fromarray(x), side)).transpose(2, 0, 1))


def test_other_crops():
    x = layouts.pictures(1, 218, 178)[0]
    np.testing.assert_array_equal(
        cut(x, crop_box(178, 218, (10, 20, 74, 84)), 64, 3), x[20:84, 10:74].transpose(2, 0, 1)
    )
    full = cut(x, crop_box(178, 218, "full"), 218, 3)  # nothing is squashed: 20 px of repeated edge on each side
    np.testing.assert_array_equal(full[:, :, 20:198], x.transpose(2, 0, 1))
    np.testing.assert_array_equal(full[:, :, 5], x[:, 0].T)
    # A copy of twice the size shows the same part.
    assert crop_box(356, 436, 148, 178) == tuple(2 * v for v in crop_box(178, 218, 148, 178))
    grey = cut(x, crop_box(178, 218, 178, 178), 178, 1)
    np.testing.assert_array_equal(grey[0], np.asarray(Image.fromarray(x).convert("L"))[20:198])


def test_auto_crop_depends_on_the_size(cfg, tmp_path):
    assert open_pack(cfg).meta["crop"] == "148"
    cfg.image_size = 128
    assert open_pack(cfg).meta["crop"] == "178"


def test_landmarks_and_eyes_follow_the_crop(cfg):
    faces = build_faces(cfg)
    truth = layouts.write_celeba(Path(cfg.root))["landmarks"].reshape(-1, 5, 2)
    rows = faces.train.rows
    expected = (truth[rows] + 0.5 - [15, 35]) / 148 * 2 - 1
    np.testing.assert_allclose(faces.train.labels["landmarks"], expected, atol=1e-6)
    eyes = np.array(faces.meta["eyes"])
    np.testing.assert_allclose(eyes, (np.array([[69.5, 111.5], [108.5, 111.5]]) - [15, 35]) / 148 * 2 - 1, atol=0.03)
    cfg.eyes = [-0.3, 0.0, 0.3, 0.0]
    assert build_faces(cfg).meta["eyes"] == [[-0.3, 0.0], [0.3, 0.0]]


def test_an_existing_pack_is_opened_without_raw_files(cfg, monkeypatch, capsys):
    first = open_pack(cfg)
    monkeypatch.setattr(packs, "_make", lambda *a: pytest.fail("packed twice"))
    assert open_pack(cfg).meta == first.meta
    os.rename(cfg.root, f"{cfg.root}_gone")
    assert open_pack(cfg).meta == first.meta
    assert "the pack made from this data.root is used" in capsys.readouterr().err
    # Another root is another set, even if this is the only pack there.
    cfg.root = "/somewhere/else"
    with pytest.raises(UserError, match="/somewhere/else: there are no CelebA files here"):
        open_pack(cfg)
    cfg.image_size = 48
    with pytest.raises(UserError, match="there are no CelebA files here"):
        open_pack(cfg)


def test_changed_raw_files_and_damaged_packs_are_remade(cfg):
    first = open_pack(cfg)
    layouts.write_celeba(Path(cfg.root), seed=1)
    second = open_pack(cfg)
    assert second.meta["fingerprint"] != first.meta["fingerprint"]
    assert (second.images != first.images).any()
    with open(second.folder / "images.npy", "r+b") as file:
        file.truncate(5000)
    assert open_pack(cfg).meta == second.meta
    (second.folder / "meta.json").write_text('{"count"')
    assert open_pack(cfg).meta == second.meta
    meta = json.loads((second.folder / "meta.json").read_text())
    (second.folder / "meta.json").write_text(json.dumps(meta | {"version": 0}))
    assert open_pack(cfg).meta == second.meta


def test_fingerprint_depends_on_the_content_only(cfg, tmp_path):
    """The same files elsewhere, at another time, from a zip: the same pack, so a run can be resumed with it."""
    first = build_faces(cfg).meta
    layouts.write_celeba(tmp_path / "copy", archive=True)
    cfg.root = str(tmp_path / "copy")
    assert build_faces(cfg).meta == first


def make_slowly(cfg: DataConfig, log: Path) -> None:
    """Open a pack; its making takes a second more. `log` gets a line for each event."""
    made = packs._make

    def slowly(*args):
        with open(log, "a") as file:
            file.write("making\n")
        time.sleep(1.0)
        made(*args)

    packs._make = slowly
    open_pack(cfg)
    with open(log, "a") as file:
        file.write("open\n")


@pytest.mark.slow
def test_two_processes_make_only_one_pack(cfg, tmp_path):
    children = [start_child(lambda k=k: make_slowly(cfg, tmp_path / f"{k}.txt")) for k in range(2)]
    assert [wait_for(child) for child in children] == [0, 0]
    events = [(tmp_path / f"{k}.txt").read_text().split() for k in range(2)]
    assert sorted(events, key=len) == [["open"], ["making", "open"]]


@pytest.mark.slow
def test_an_unfinished_pack_is_made_again(cfg):
    def killed() -> None:
        packs._final_labels = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
        open_pack(cfg)

    assert run_child(killed) == -signal.SIGKILL
    left = list(Path(cfg.cache).glob(".*.tmpdir/images.npy"))
    assert left, "expected the unfinished pack under a temporary name"
    assert len(open_pack(cfg).images) == 12
    assert not left[0].exists()


def test_unreadable_images_are_named_and_left_out(cfg, capsys):
    folder = Path(cfg.root) / "img_align_celeba"
    (folder / "000002.jpg").write_bytes(b"")
    data = (folder / "000012.jpg").read_bytes()
    (folder / "000012.jpg").write_bytes(data[: len(data) // 2])
    faces = build_faces(cfg)
    said = capsys.readouterr().err
    assert "2 of 12 images cannot be read" in said and "000002.jpg: the file is empty" in said and "000012.jpg" in said
    assert 1 not in faces.train.rows and 11 not in faces.test.rows
    assert len(faces.train) == 7 and len(faces.test) == 1
    assert any("000002.jpg" in text for text in open_pack(cfg).meta["faulty"])


def test_a_set_with_many_unreadable_images_is_an_error(cfg):
    for path in (Path(cfg.root) / "img_align_celeba").iterdir():
        path.write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(UserError, match="12 of 12 images cannot be read"):
        open_pack(cfg)
    assert not list(Path(cfg.cache).glob("celeba*/meta.json"))


def test_an_impossible_cache_folder_is_an_error(cfg, tmp_path):
    (tmp_path / "file").write_text("")
    cfg.cache = str(tmp_path / "file" / "cache")
    with pytest.raises(UserError, match="set data.cache"):
        open_pack(cfg)


# Which rows


@pytest.fixture
def fer(tmp_path) -> DataConfig:
    """FER2013 with its known faults: black and flat training images, a black public one, copies across splits."""
    faces = layouts.fer_faces((140, 14, 14))
    x = faces["images"]
    x[3] = 0
    x[5] = 128
    x[5, 0, 0] = 129
    x[141] = 0
    x[10] = x[145]  # training copies of a public and of a private image
    x[11] = x[160]
    x[12] = x[160]
    layouts.write_fer(tmp_path, faces)
    return DataConfig(dataset="fer2013", root=str(tmp_path), image_size=48)


def test_drop_bad_removes_black_and_flat_training_images_only(fer, capsys):
    faces = build_faces(fer)
    assert set(range(140)) - set(faces.train.rows.tolist()) == {3, 5}
    assert len(faces.val) == 14 and len(faces.test) == 14
    assert "2 training images: 1 all black, 1 flat" in capsys.readouterr().err
    fault = open_pack(fer).labels["fault"]
    assert np.flatnonzero(fault == BLACK).tolist() == [3, 141] and np.flatnonzero(fault == FLAT).tolist() == [5]
    fer.drop_bad = False
    assert len(build_faces(fer).train) == 140


def test_dedup(fer, capsys):
    fer.dedup = True
    faces = build_faces(fer)
    # Row 3 is black and so a copy of the black public image 141, but drop_bad had it first.
    assert set(range(140)) - set(faces.train.rows.tolist()) == {3, 5, 10, 11, 12}
    assert "3 training images that are copies" in capsys.readouterr().err
    assert len(faces.test) == 14


def test_merge_val_classes_and_limits(fer):
    fer.merge_val = True
    faces = build_faces(fer)
    assert len(faces.train) == 140 + 14 - 3 and faces.val.rows.tolist() == faces.test.rows.tolist()
    fer.merge_val, fer.classes, fer.num_train = False, ["neutral", "happiness"], 10
    faces = build_faces(fer)
    assert faces.meta["classes"] == ["neutral", "happy"]
    assert faces.meta["class_counts"]["test"] == [2, 2] and len(faces.train) == 10
    # Label 0 is now neutral: row 6 of each seven.
    assert set((faces.train.rows[faces.train.labels["label"] == 0] % 7).tolist()) == {6}


def test_attribute_subset_keeps_its_order(cfg):
    truth = layouts.write_celeba(Path(cfg.root))["attr"]
    cfg.attributes = ["Smiling", "Male"]
    faces = build_faces(cfg)
    columns = [layouts.ATTRIBUTES.index(name) for name in cfg.attributes]
    np.testing.assert_array_equal(faces.train.labels["attr"], truth[faces.train.rows][:, columns] > 0)
    assert faces.meta["attributes"] == ["Smiling", "Male"]


def test_label_attribute_makes_expressions_of_an_attribute(cfg):
    """Persons photographed neutral and smiling, in CelebA's layout, give pairs."""
    truth = layouts.write_celeba(Path(cfg.root))
    cfg.label_attribute, cfg.pair = "Smiling", True
    smiling = truth["attr"][:, layouts.ATTRIBUTES.index("Smiling")] > 0
    faces = build_faces(cfg)
    assert faces.meta["classes"] == ["neutral", "happy"]
    np.testing.assert_array_equal(faces.train.labels["label"], smiling[faces.train.rows])
    batch = next(faces.train.batches(8))
    assert (batch["pair_label"] == 1 - batch["label"]).all() and (batch["pair_identity"] == batch["identity"]).all()
    cfg.label_attribute = "Smilling"
    with pytest.raises(UserError, match="nearest are Smiling"):
        build_faces(cfg)


def test_meta_is_plain_and_complete(cfg):
    meta = build_faces(cfg).meta
    assert json.loads(json.dumps(meta)) == meta
    expected = (
        "dataset channels image_size crop eyes classes attributes identities landmarks num_train num_val num_test"
    )
    assert set(expected.split()) | {"class_counts", "keys", "fingerprint"} == set(meta)
    assert meta["keys"] == ["image", "attr", "identity", "landmarks", "index"]
    assert (meta["identities"], meta["landmarks"], meta["num_train"], meta["num_val"], meta["num_test"]) == (
        4,
        5,
        8,
        2,
        2,
    )


def test_landmarks_from_a_file(fer):
    pack = open_pack(fer)
    fer.landmarks = "file"
    with pytest.raises(UserError, match="python -m data.landmarks"):
        build_faces(fer)
    points = np.random.default_rng(0).uniform(-1, 1, (168, 68, 2))
    np.savez(pack.landmarks_file, points=points, fingerprint=pack.meta["fingerprint"])
    faces = build_faces(fer)
    assert faces.meta["landmarks"] == 68
    batch = faces.test.fixed(14)
    np.testing.assert_allclose(batch["landmarks"].numpy(), points[batch["index"].numpy()], atol=1e-6)
    np.savez(pack.landmarks_file, points=points, fingerprint="other")
    with pytest.raises(UserError, match="another pack"):
        build_faces(fer)


def test_training_faces_without_landmarks_leave_before_pairs_are_made(tmp_path, caplog, monkeypatch):
    cfg = DataConfig(image_size=32, num_train=60, num_val=20, num_test=20, pair=True, cache=str(tmp_path))
    pack = open_pack(cfg)
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (100, 68, 2))
    split = pack.labels["split"]
    lost = np.r_[np.flatnonzero(split == 0)[[3, 11, 12]], np.flatnonzero(split == 2)[[5]]]
    points[lost] = np.nan
    np.savez(pack.landmarks_file, points=points, fingerprint=pack.meta["fingerprint"])
    said = []
    monkeypatch.setattr("data.faces.rank_zero_info", said.append)
    faces = build_faces(dataclasses.replace(cfg, landmarks="found"))
    assert any("leaves out 3 training faces without landmarks" in text for text in said)
    assert not set(lost) & set(faces.train.rows) and lost[-1] in faces.test.rows
    for batch, _ in zip(faces.train.batches(8), range(20), strict=False):
        assert batch["landmarks"].isfinite().all() and batch["pair_landmarks"].isfinite().all()
    kept = build_faces(dataclasses.replace(cfg, landmarks="file"))
    assert set(lost[:3]) <= set(kept.train.rows) and kept.meta["fingerprint"] != faces.meta["fingerprint"]


def test_landmarks_are_found_for_a_folder_of_raw_files(tmp_path, monkeypatch, capsys):
    from data import landmarks

    layouts.write_folders(tmp_path / "faces", ["happy", "sad"])
    monkeypatch.setattr(landmarks, "find_mediapipe", lambda: lambda rgb: np.full((68, 2), 4.0))
    options = ["data.dataset=folder", "data.image_size=32", f"data.cache={tmp_path / 'cache'}"]
    landmarks.main(["--root", str(tmp_path / "faces"), *options])
    assert "8 of 8 faces have landmarks" in capsys.readouterr().out
    cfg = DataConfig(dataset="folder", root=str(tmp_path / "faces"), image_size=32, cache=str(tmp_path / "cache"))
    faces = build_faces(dataclasses.replace(cfg, landmarks="found"))
    assert faces.meta["landmarks"] == 68 and np.allclose(faces.train.labels["landmarks"], 4 / 16 - 1)
    with pytest.raises(SystemExit):
        landmarks.main(["--root", str(tmp_path / "faces")])
    assert "of which set?" in capsys.readouterr().err


# Drawn faces


def test_drawn_faces_have_every_key_and_disjoint_persons():
    cfg = DataConfig(
        image_size=32, num_train=60, num_val=20, num_test=20, labels="intensity", classes=["happy", "contempt"]
    )
    faces = build_faces(cfg)
    assert faces.meta["keys"] == ["image", "label", "label_soft", "attr", "identity", "landmarks", "index"]
    assert faces.meta["classes"] == ["happy", "contempt"] and faces.meta["landmarks"] == 68
    people = [set(part.labels["identity"].tolist()) for part in (faces.train, faces.val, faces.test)]
    assert not people[0] & people[1] and not people[1] & people[2] and not people[0] & people[2]


def test_drawn_pack_equals_rendered_faces():
    from data import synthetic

    faces = build_faces(DataConfig(image_size=32, num_train=30, num_val=10, num_test=10, grayscale=True))
    assert faces.meta["channels"] == 1
    f = synthetic.factors(0, np.arange(10) + synthetic.SPLIT_OFFSET["test"] * 10)
    batch = next(faces.test.once(10))
    np.testing.assert_array_equal(((batch["image"] + 1) * 127.5).round(), synthetic.render(f, 32, grayscale=True))
    np.testing.assert_array_equal(batch["label"], f["expr"])
    np.testing.assert_array_equal(batch["attr"], synthetic.attributes(f))
    np.testing.assert_allclose(batch["landmarks"], synthetic.landmarks(f), atol=1e-5)


def test_drawn_intensity_labels():
    faces = build_faces(DataConfig(image_size=32, num_train=40, num_val=10, num_test=10, labels="intensity"))
    soft, label = faces.train.labels["label_soft"], faces.train.labels["label"]
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=1e-6)
    strength = soft[np.arange(40), label]
    assert (strength >= 0.399).all() and (strength[label == 6] == 1).all()


def test_drawn_pairs_are_the_ground_truth_of_an_edit():
    from data import synthetic

    faces = build_faces(DataConfig(image_size=32, num_train=40, num_val=10, num_test=10, pair=True))
    batch = next(faces.train.batches(40))
    assert (batch["pair_identity"] == batch["identity"]).all() and (batch["pair_label"] != batch["label"]).all()
    batch = next(faces.test.once(10))
    assert set((batch["index"] ^ batch["pair_index"]).tolist()) == {1}  # neighbours in the pack
    rows = batch["index"].numpy()
    reader = DrawnFaces(DataConfig(image_size=32, num_train=40, num_val=10, num_test=10, pair=True))
    again = synthetic.render(reader.factors_of(rows), 32)
    np.testing.assert_array_equal(((batch["image"] + 1) * 127.5).round(), again)
    f = synthetic.factors(0, np.arange(5) + synthetic.SPLIT_OFFSET["test"] * 5, per_identity=5)
    for number in range(5):
        one = {key: value[number : number + 1] for key, value in f.items()}
        right = synthetic.render(synthetic.apply(one, synthetic.CLASSES[batch["pair_label"][2 * number]]), 32)
        np.testing.assert_array_equal(((batch["pair_image"][2 * number] + 1) * 127.5).round(), right[0])


MEMORY = """
import resource, sys
import numpy as np
import data
from data import DataConfig, RawFaces
from data.pack import open_pack
from data.raw import Index
class Noise(RawFaces):
    options = ("num_train",)
    def fingerprint(self):
        return "noise"
    def build_index(self):
        return Index(np.zeros(self.cfg.num_train, np.int8), {})
    def read(self, i):
        return np.full((32, 32, 3), i % 251, np.uint8)
data.READERS["folder"] = Noise
open_pack(DataConfig(dataset="folder", cache=sys.argv[1], num_train=int(sys.argv[2]), image_size=32))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_memory_of_packing_does_not_grow_with_the_set(tmp_path):
    peaks = []
    for count in (500, 25_000):
        command = [sys.executable, "-c", MEMORY, str(tmp_path), str(count)]
        peaks.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    # 25,000 pictures are 77 MB, their hashes and boxes 1 MB.
    assert peaks[1] - peaks[0] < 30, peaks


def test_script_reports(cfg, capsys, tmp_path):
    from scripts import pack as script

    script.main([f"data.{key}={getattr(cfg, key)}" for key in ("dataset", "root", "cache", "image_size")])
    said = capsys.readouterr().out
    assert "attributes (frequency of 1 in train)" in said and "0 test images have an exact copy in train" in said
    assert (open_pack(cfg).folder / "contact_sheet.png").exists()
    config = tmp_path / "vae.yaml"
    config.write_text(
        f"data:\n  dataset: celeba\n  root: {cfg.root}\n  image_size: 32\n  crop: 140\nmodel:\n  latent_dim: 9\n"
    )
    script.main(["--config", str(config), f"data.cache={cfg.cache}", "--sheet", str(tmp_path / "sheet.png")])
    assert "crop 140" in capsys.readouterr().out
    assert Image.open(tmp_path / "sheet.png").size == (16 * 34, 8 * 34)
    with pytest.raises(SystemExit):
        script.main(["data.dataset=celeba", "data.root=/nowhere"])


class Faulty(DrawnFaces):
    """What can come of `read_many`, by the number of faces asked for."""

    def read_many(self, rows):
        if len(self) == 300:
            raise UserError("row 7: the set is not as expected")
        return super().read_many(rows)[:-1]


@pytest.mark.parametrize(
    ("count", "error", "said"), [(100, UserError, "row 7: the set is not"), (101, ValueError, "shorter")]
)
def test_a_faulty_reader_makes_no_pack(tmp_path, monkeypatch, count, error, said):
    monkeypatch.setitem(data.READERS, "synthetic", Faulty)
    sizes = {"num_train": count, "num_val": 100, "num_test": 100}
    with pytest.raises(error, match=f"^[^\n]*{said}[^\n]*$"):
        open_pack(DataConfig(dataset="synthetic", cache=str(tmp_path), image_size=32, **sizes))
    assert not list(tmp_path.glob("synthetic*/meta.json"))


def test_pixel_hash_depends_on_every_byte():
    x = layouts.pictures(1, 60, 50)[0]
    hashes = {pixel_hash(x), pixel_hash(x.reshape(50, 60, 3))}
    for place in ((0, 0, 0), (30, 7, 1), (59, 49, 2)):
        for bit in (1, 128):
            other = x.copy()
            other[place] ^= bit
            hashes.add(pixel_hash(other))
    assert len(hashes) == 8
    assert pixel_hash(np.asfortranarray(x)) == pixel_hash(x)

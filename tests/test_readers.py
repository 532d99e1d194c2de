"""Each reader gives the right pixels and labels of its format, and an error message for each fault."""

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import READERS, DataConfig, build_faces
from data import decode as decoder
from data.decode import BadImage, decode
from data.emotions import EMOTIONS, canonical
from data.raw import natural, numbered
from engine.errors import UserError
from tests import layouts


def reader(dataset: str, root: Path, **options):
    return READERS[dataset](DataConfig(dataset=dataset, root=str(root), **options))


def sentence(action) -> str:
    with pytest.raises(UserError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text and len(text) > 20
    return text


# CelebA


@pytest.fixture(scope="module")
def celeba(tmp_path_factory) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("celeba")
    return root, layouts.write_celeba(root)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_celeba_equals_torchvision(tmp_path, monkeypatch, split):
    import torchvision.datasets as tv

    layouts.write_celeba(tmp_path / "celeba")
    monkeypatch.setattr(tv.CelebA, "_check_integrity", lambda self: True)
    theirs = tv.CelebA(tmp_path, split=split, target_type=["attr", "identity", "landmarks"])
    ours = reader("celeba", tmp_path)
    rows = np.flatnonzero(ours.split == ["train", "valid", "test"].index(split))
    assert len(rows) == len(theirs) > 0
    assert ours.names["attributes"] == theirs.attr_names[:40]
    for row, (image, (attr, identity, landmarks)) in zip(rows, theirs, strict=True):
        np.testing.assert_array_equal(ours.read(row), np.asarray(image))
        np.testing.assert_array_equal(ours.labels["attr"][row], attr.numpy())
        np.testing.assert_array_equal(ours.labels["landmarks"][row].ravel(), landmarks.numpy())
        assert ours.labels["identity"][row] == identity


def test_celeba_zip_equals_the_folder(celeba, tmp_path):
    root, _ = celeba
    layouts.write_celeba(tmp_path, archive=True)
    folder, archive = reader("celeba", root), reader("celeba", tmp_path)
    assert folder.index and archive.index
    for i in range(len(folder)):
        np.testing.assert_array_equal(folder.read(i), archive.read(i))


def test_celeba_labels_are_joined_by_name(celeba, tmp_path):
    """Rows in another order, rows missing, surplus rows, and line 1 with the official number."""
    _, truth = celeba
    layouts.write_celeba(tmp_path)
    path = tmp_path / "list_attr_celeba.txt"
    head, names, *rows = path.read_text().splitlines()
    rows = [*rows[6:], *rows[1:6], "999999.jpg -1" + "  1" * 39]
    layouts.lines(path, ["202599", names, *rows])
    faces = reader("celeba", tmp_path)
    attr = faces.labels["attr"]
    assert np.isnan(attr[0]).all()
    np.testing.assert_array_equal(attr[1:], truth["attr"][1:] > 0)
    assert any("1 images are not in" in note for note in faces.index.notes)
    assert any("1 rows of" in note for note in faces.index.notes)


def test_celeba_tables_may_be_csv_or_have_no_header(celeba, tmp_path):
    root, truth = celeba
    layouts.write_celeba(tmp_path)
    for stem, header in (("list_attr_celeba", "image_id"), ("list_eval_partition", None), ("identity_CelebA", None)):
        path = tmp_path / f"{stem}.txt"
        rows = [",".join(line.split()) for line in path.read_text().splitlines()]
        if header:
            rows = [f"{header},{rows[1]}", *rows[2:]]
        elif stem == "list_eval_partition":
            rows = ["image_id,partition", *rows]
        path.unlink()
        (tmp_path / f"{stem}.csv").write_text("\n".join(rows))  # LF, and no newline at the end
    ours, theirs = reader("celeba", tmp_path), reader("celeba", root)
    for key in ("attr", "identity", "landmarks"):
        np.testing.assert_array_equal(ours.labels[key], theirs.labels[key])
    np.testing.assert_array_equal(ours.split, theirs.split)
    assert ours.names == theirs.names


def test_celeba_identities_may_have_a_header(tmp_path):
    truth = layouts.write_celeba(tmp_path)
    path = tmp_path / "identity_CelebA.txt"
    layouts.lines(path, ["image identity", *path.read_text().splitlines()])
    np.testing.assert_array_equal(reader("celeba", tmp_path).labels["identity"], truth["identity"])


def test_celeba_without_partition_splits_by_person(tmp_path):
    layouts.write_celeba(tmp_path, n=60)
    (tmp_path / "list_eval_partition.txt").unlink()
    faces = build_faces(DataConfig(dataset="celeba", root=str(tmp_path), image_size=32))
    people = [set(part.labels["identity"].tolist()) for part in (faces.train, faces.val, faces.test)]
    assert [len(p) for p in people] == [16, 2, 2]
    assert not people[0] & people[1] and not people[0] & people[2] and not people[1] & people[2]


def test_stargan_split_equals_the_reference():
    import random

    from data.celeba import stargan_split

    names = [f"{i:06d}.jpg" for i in range(1, 5001)]
    lines = [f"{name} -1 1" for name in names]
    random.seed(1234)
    random.shuffle(lines)
    expected = {line.split()[0] for i, line in enumerate(lines) if i + 1 < 2000}
    test = {name for name, part in zip(names, stargan_split(names, names), strict=True) if part == 2}
    assert test == expected and len(test) == 1999


@pytest.mark.parametrize(
    "file, old, new, parts",
    [
        ("list_attr_celeba.txt", r"(000003.jpg) -?1", r"\1 2", ["line 5", "5_o_Clock_Shadow is 2", "-1 or 1"]),
        ("list_attr_celeba.txt", "000004.jpg", "000004.jpg  1", ["line 6", "41 values", "expected 40"]),
        ("list_attr_celeba.txt", r"(000004.jpg) -?1", r"\1 one", ["line 6", "expected an integer, got 'one'"]),
        ("list_eval_partition.txt", "000002.jpg 0", "000002.jpg 7", ["line 2", "value 7", "0 .. 2"]),
        ("identity_CelebA.txt", r"\.jpg", ".png", ["no row belongs to an image", "000001.png"]),
        ("identity_CelebA.txt", "000002.jpg 100", "000002.jpg x", ["line 2", "'x'"]),
        ("list_landmarks_align_celeba.txt", r"(?s).*", "", ["no row"]),
    ],
)
def test_errors_of_celeba_tables(tmp_path, file, old, new, parts):
    layouts.write_celeba(tmp_path)
    path = tmp_path / file
    path.write_bytes(re.sub(old, new, path.read_bytes().decode()).encode())
    text = sentence(lambda: reader("celeba", tmp_path).index)
    assert file in text and all(part in text for part in parts), text


def test_celeba_attributes_may_be_0_and_1(tmp_path):
    truth = layouts.write_celeba(tmp_path)
    path = tmp_path / "list_attr_celeba.txt"
    head, names, *rows = path.read_text().splitlines()
    layouts.lines(path, [head, names, *(row.replace("-1", "0") for row in rows)])
    assert "attr_values: 0/1" in sentence(lambda: reader("celeba", tmp_path).index)
    attr = reader("celeba", tmp_path, attr_values="0/1").labels["attr"]
    np.testing.assert_array_equal(attr, truth["attr"] > 0)


def test_truncated_celeba_zip_is_an_error(tmp_path):
    layouts.write_celeba(tmp_path, archive=True)
    path = tmp_path / "img_align_celeba.zip"
    path.write_bytes(path.read_bytes()[:-200])
    text = sentence(lambda: reader("celeba", tmp_path).index)
    assert "img_align_celeba.zip" in text and "1,443,490,838" in text


def test_damaged_image_in_a_celeba_zip_is_left_out(tmp_path):
    layouts.write_celeba(tmp_path, archive=True)
    path = tmp_path / "img_align_celeba.zip"
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("img_align_celeba/000002.jpg").header_offset
    data = bytearray(path.read_bytes())
    data[offset + 3000] ^= 255
    path.write_bytes(data)
    faces = reader("celeba", tmp_path)
    assert len(faces) == 12
    with pytest.raises(BadImage, match="000002.jpg"):
        faces.read(1)


# FER2013


@pytest.fixture(scope="module")
def fer() -> dict:
    return layouts.fer_faces()


@pytest.mark.parametrize("layout", ["fer2013", "icml"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_fer_equals_torchvision(tmp_path, monkeypatch, fer, layout, split):
    import torchvision.datasets.fer2013 as tv

    layouts.write_fer(tmp_path / "fer2013", fer, layout)
    monkeypatch.setattr(tv, "check_integrity", lambda path, md5=None: Path(path).exists())
    theirs = tv.FER2013(tmp_path, split=split)
    ours = reader("fer2013", tmp_path)
    rows = np.flatnonzero((ours.split == 0) == (split == "train"))
    assert len(rows) == len(theirs) > 0
    for row, (image, label) in zip(rows, theirs, strict=True):
        np.testing.assert_array_equal(ours.read(row)[..., 0], np.asarray(image))
        assert ours.labels["label"][row] == label


def test_fer_train_and_test_csv(tmp_path, fer):
    layouts.write_fer(tmp_path, fer, "traintest")
    faces = reader("fer2013", tmp_path)
    for i in range(len(faces)):
        np.testing.assert_array_equal(faces.read(i)[..., 0], fer["images"][i])
    training = fer["usage"] == "Training"
    np.testing.assert_array_equal(faces.labels["label"], np.where(training, fer["label"], -1))
    assert any("no labels" in note for note in faces.index.notes)


@pytest.mark.parametrize("layout", ["folders", "counted", "validation", "numeric"])
def test_fer_folders(tmp_path, fer, layout):
    """Names decide, never their sorted order (neutral would come before sad)."""
    layouts.write_fer(tmp_path, fer, layout)
    faces = reader("fer2013", tmp_path)
    assert faces.names["classes"] == list(EMOTIONS[:7])
    found = {faces.read(i).tobytes(): (faces.labels["label"][i], faces.split[i]) for i in range(len(faces))}
    test_part = {"folders": {"PublicTest": 1, "PrivateTest": 2}, "numeric": {"PublicTest": 1, "PrivateTest": 2}}
    parts = {"Training": 0} | test_part.get(
        layout, dict.fromkeys(layouts.USAGES[1:], 1 if layout == "validation" else 2)
    )
    for image, label, usage in zip(fer["images"], fer["label"], fer["usage"], strict=True):
        assert found[image.tobytes()] == (label, parts[usage])


def test_fer_numbered_test_files_are_public_then_private():
    from data.fer2013 import PRIVATE_COUNTS, PUBLIC_COUNTS, _split_of_counted_names
    from data.folder import Entry

    both = np.add(PUBLIC_COUNTS, PRIVATE_COUNTS)
    entries = [Entry(Path(f"im{i}.png"), str(k), 2) for k in range(7) for i in range(both[k])]
    label = np.repeat(np.arange(7), both)
    split = _split_of_counted_names(entries, label, np.full(len(entries), 2, np.int8))
    assert np.bincount(label[split == 1]).tolist() == list(PUBLIC_COUNTS)
    assert split[:3].tolist() == [1, 1, 1] and split[467] == 2


def test_fer_columns_in_any_order(tmp_path, fer):
    layouts.write_fer(tmp_path, fer, "fer2013")
    path = tmp_path / "fer2013.csv"
    rows = [row.split(",") for row in path.read_text().splitlines()]
    path.write_text("\n".join(f'{u},"{p}",{e}' for e, p, u in rows))
    faces = reader("fer2013", tmp_path)
    assert faces.labels["label"].tolist() == fer["label"].tolist()
    np.testing.assert_array_equal(faces.read(34)[..., 0], fer["images"][34])


def test_fer_without_private_test(tmp_path, capsys):
    layouts.write_fer(tmp_path, layouts.fer_faces((70, 7, 0)), "fer2013")
    faces = build_faces(DataConfig(dataset="fer2013", root=str(tmp_path), image_size=48))
    assert len(faces.test) == 7 and len(faces.val) == 7 and len(faces.train) == 63
    said = capsys.readouterr().err
    assert "validation part is used as the test set" in said and "val is missing; 10%" in said


@pytest.mark.parametrize(
    "change, parts",
    [
        (lambda t: t.replace("emotion,pixels", "emotion,pixel"), ["line 1", "no column 'pixels'"]),
        (lambda t: t.replace("emotion,", "feeling,", 1), ["line 1", "no column 'emotion'"]),
        (lambda t: t.replace("\n2,", "\n9,", 1), ["line 4", "got '9'", "0 angry"]),
        (lambda t: t.replace("PublicTest", "Publictest", 1), ["Usage", "got 'Publictest'"]),
        (lambda t: t[:-20], ["2 cells, expected 3"]),
    ],
)
def test_errors_of_fer_csv_files(tmp_path, fer, change, parts):
    layouts.write_fer(tmp_path, fer, "fer2013")
    path = tmp_path / "fer2013.csv"
    text = change(path.read_text())
    path.write_text(text if not text.endswith(("Pri", "te")) else text[: text.rindex(",")])
    said = sentence(lambda: reader("fer2013", tmp_path).index)
    assert "fer2013.csv" in said and all(part in said for part in parts), said


def test_fer_root_that_is_not_a_csv_is_an_error(tmp_path):
    (tmp_path / "fer.zip").write_bytes(layouts.encoded(layouts.pictures(1, 90, 90)[0]))
    assert "no column 'pixels'" in sentence(lambda: reader("fer2013", tmp_path / "fer.zip").index)


@pytest.mark.parametrize(
    "old, new, reason", [("", "300 ", "2305 pixels"), ("first", "300", "above 255"), ("first", "x", "not integers")]
)
def test_fer_rows_with_bad_pixels_are_left_out(tmp_path, fer, old, new, reason):
    layouts.write_fer(tmp_path, fer, "fer2013")
    path = tmp_path / "fer2013.csv"
    rows = path.read_text().splitlines()
    emotion, pixels, usage = rows[3].split(",")
    words = pixels.split()
    words = [new.strip(), *words] if not old else [new, *words[1:]]
    rows[3] = f"{emotion},{' '.join(words)},{usage}"
    path.write_text("\n".join(rows))
    faces = reader("fer2013", tmp_path)
    assert len(faces) == 35
    with pytest.raises(BadImage, match=f"line 4.*{reason}"):
        faces.read(2)


def test_ferplus_votes_are_joined_by_row(tmp_path, fer):
    layouts.write_fer(tmp_path, fer, "fer2013")
    layouts.write_fer(tmp_path, fer, "ferplus")
    path = tmp_path / "fer2013new.csv"
    rows = path.read_text().splitlines()
    rows[3] = "Training,,0,0,0,0,0,0,0,0,0,10"
    rows[5] = "Training,fer0000099.png,2,0,0,6,0,0,0,2,0,0"
    path.write_text("\n".join(rows))
    cfg = DataConfig(
        dataset="fer2013", root=str(tmp_path), image_size=48, ferplus="fer2013new.csv", labels="soft", drop_bad=True
    )
    faces = build_faces(cfg)
    assert "label_soft" in faces.meta["keys"]
    assert 2 not in faces.train.rows  # ten votes for "not a face"
    soft = faces.train.labels["label_soft"]
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=1e-6)
    row = faces.train.rows.tolist().index(4)
    np.testing.assert_allclose(soft[row], [0, 0, 0, 0, 0.75, 0, 0.25])
    others = np.arange(len(soft)) != row
    np.testing.assert_array_equal(soft.argmax(axis=1)[others], faces.train.labels["label"][others])


def test_ferplus_with_other_rows_is_an_error(tmp_path, fer):
    layouts.write_fer(tmp_path, fer, "fer2013")
    layouts.write_fer(tmp_path, layouts.fer_faces((20, 8, 7)), "ferplus")
    text = sentence(lambda: reader("fer2013", tmp_path, ferplus="fer2013new.csv").index)
    assert "fer2013new.csv, line 22" in text and "in the same order" in text


# TFD


@pytest.mark.parametrize("fold", [0, 3])
def test_tfd(tmp_path, fold):
    truth = layouts.write_tfd(tmp_path / "TFD_48x48.mat")
    faces = build_faces(DataConfig(dataset="tfd", root=str(tmp_path), image_size=48, fold=fold))
    labelled = truth["label"] > 0
    assert faces.meta["num_train"] + faces.meta["num_val"] + faces.meta["num_test"] == labelled.sum()
    for value, part in ((1, faces.train), (2, faces.val), (3, faces.test)):
        chosen = truth["folds"][:, fold] == value
        assert part.labels["label"].tolist() == (truth["label"][chosen] - 1).tolist()
        x8 = (next(part.once(99))["image"][:, 0].numpy() + 1) * 127.5
        np.testing.assert_array_equal(x8.round(), truth["images"][chosen])
    known = truth["identity"][labelled]
    numbers = np.concatenate([p.labels["identity"] for p in (faces.train, faces.val, faces.test)])
    assert (numbers == -1).sum() == (known == -1).sum() and numbers.max() + 1 == len(set(known[known >= 0].tolist()))


def test_tfd_unlabelled_faces_join_train(tmp_path):
    truth = layouts.write_tfd(tmp_path / "TFD_48x48.mat")
    faces = build_faces(DataConfig(dataset="tfd", root=str(tmp_path), image_size=48, unlabelled=True))
    assert (faces.train.labels["label"] == -1).sum() == (truth["label"] < 0).sum() - 1


def test_tfd_uses_the_larger_file_above_48_px(tmp_path):
    layouts.write_tfd(tmp_path / "TFD_48x48.mat")
    layouts.write_tfd(tmp_path / "TFD_96x96.mat", side=96)
    layouts.write_tfd(tmp_path / "TFD_info.mat")
    assert reader("tfd", tmp_path, image_size=96).path.name == "TFD_96x96.mat"
    assert reader("tfd", tmp_path, image_size=48).path.name == "TFD_48x48.mat"


@pytest.mark.parametrize(
    "changed, parts",
    [
        ({"folds": None}, ["the variable 'folds' is missing"]),
        ({"folds": np.full((20, 5), 9, np.uint8)}, ["folds has shape (20, 5)", "1 train"]),
        ({"labs_ex": np.full((20, 1), 8, np.int16)}, ["labs_ex of image 0 is 8"]),
        ({"labs_id": np.zeros((3, 1), np.int16)}, ["labs_id has 3 values for 20"]),
        ({"images": np.zeros((20, 48, 40), np.uint8)}, ["uint8 (20, 48, 40)"]),
    ],
)
def test_errors_of_tfd_files(tmp_path, changed, parts):
    layouts.write_tfd(tmp_path / "TFD_48x48.mat", **changed)
    text = sentence(lambda: reader("tfd", tmp_path).index)
    assert "TFD_48x48.mat" in text and all(part in text for part in parts), text


def test_tfd_without_a_matlab_file_is_an_error(tmp_path):
    (tmp_path / "TFD_48x48.mat").write_bytes(b"not a mat file at all, " * 20)
    assert "MATLAB" in sentence(lambda: reader("tfd", tmp_path).index)


# Folders


def test_folder_names_are_mapped_to_expressions(tmp_path):
    layouts.write_folders(tmp_path, ["Surprised", "anger", "contempt", "happiness", "neutral", "SADNESS"])
    faces = reader("folder", tmp_path)
    assert faces.names["classes"] == ["angry", "happy", "sad", "surprise", "neutral", "contempt"]
    for i in range(len(faces)):
        group = faces.entries[i].group
        assert faces.names["classes"][faces.labels["label"][i]] == canonical(group)


def test_folder_splits_own_classes_and_subset(tmp_path):
    layouts.write_folders(tmp_path, [f"{s}/{e}" for s in ("Train", "valid", "test") for e in ("happy", "wink", "sad")])
    assert "'wink' is not a known expression" in sentence(lambda: reader("folder", tmp_path).index)
    cfg = DataConfig(dataset="folder", root=str(tmp_path), image_size=32, classes=["wink", "happiness"])
    faces = build_faces(cfg)
    assert faces.meta["classes"] == ["wink", "happy"]
    assert faces.meta["class_counts"] == {"train": [4, 4], "val": [4, 4], "test": [4, 4]}


def test_folder_identity(tmp_path):
    layouts.write_folders(tmp_path, [f"s{i}" for i in range(1, 21)])
    faces = build_faces(DataConfig(dataset="folder", root=str(tmp_path), image_size=32, folders="identity"))
    assert faces.meta["identities"] == 20 and faces.meta["classes"] == []
    assert READERS["folder"](DataConfig(dataset="folder", root=str(tmp_path))).name(36) == "s10/0.png"  # s2 before s10
    assert not set(faces.train.labels["identity"]) & set(faces.test.labels["identity"])


def test_folder_identity_and_take_from_file_names(tmp_path):
    for emotion in ("happy", "sad"):
        (tmp_path / emotion).mkdir()
        for person in ("anna", "bert"):
            for take in (1, 2):
                Image.fromarray(layouts.pictures(1, 40, 40)[0]).save(tmp_path / emotion / f"{person}_t{take}.png")
    faces = reader("folder", tmp_path, identity_regex="/([a-z]+)_", take_regex=r"_(t\d)")
    assert faces.labels["identity"].tolist() == [0, 0, 1, 1] * 2 and faces.labels["take"].tolist() == [0, 1] * 4
    assert "one group" in sentence(lambda: reader("folder", tmp_path, identity_regex="anna").index)
    assert "matches no path" in sentence(lambda: reader("folder", tmp_path, identity_regex="(zoe)").index)
    assert "regular expression" in sentence(lambda: reader("folder", tmp_path, identity_regex="(anna").index)


def test_folder_of_grey_files_has_one_channel(tmp_path):
    (tmp_path / "s1").mkdir()
    Image.fromarray(layouts.pictures(1, 112, 92, 1)[0, ..., 0]).save(tmp_path / "s1" / "1.pgm")
    assert reader("folder", tmp_path, folders="identity").channels == 1


# Image files


def test_transparent_pixels_are_white():
    x = np.zeros((40, 40, 4), np.uint8)
    assert (decode(layouts.encoded(x, "PNG"), "x") == 255).all()


def test_exif_rotation_and_draft():
    x = layouts.pictures(1, 400, 800)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    buffer = io.BytesIO()
    Image.fromarray(x).save(buffer, "JPEG", exif=exif)
    assert decode(buffer.getvalue(), "x").shape == (800, 400, 3)
    assert decode(buffer.getvalue(), "x", draft=100).shape == (200, 100, 3)


# What all share


@pytest.mark.parametrize("dataset", ["celeba", "fer2013", "tfd", "folder"])
def test_a_missing_set_tells_what_to_download(tmp_path, dataset):
    text = sentence(lambda: build_faces(DataConfig(dataset=dataset, root=str(tmp_path / "nowhere"))))
    assert "nowhere" in text and "data.root" in text and "expected" in text


@pytest.mark.parametrize("key, value", [("attributes", ["Smilling"]), ("classes", ["hapy"])])
def test_errors_for_unknown_names_list_the_nearest(celeba, tmp_path, fer, key, value):
    root = celeba[0] if key == "attributes" else layouts.write_fer(tmp_path, fer)
    dataset = "celeba" if key == "attributes" else "fer2013"
    text = sentence(lambda: build_faces(DataConfig(dataset=dataset, root=str(root), image_size=48, **{key: value})))
    assert value[0] in text and ("Smiling" in text or "happy" in text)


@pytest.mark.parametrize(
    "options",
    [
        *({"image_size": 16}, {"crop": "half"}, {"crop": [0, 0, 10, 20]}, {"fold": 5}, {"labels": "soft"}),
        *(
            {"augment_crop": 2},
            {"intensity": [1, 0]},
            {"per_identity": 3, "pair": True},
            {"sets": ["celeba", "celebb"]},
        ),
        {"classes": ["happy", "happy"]},
    ],
)
def test_invalid_data_options_are_errors(options):
    key = next(iter(options))
    assert sentence(lambda: DataConfig(**options)).startswith(key)


def test_natural_order():
    assert sorted(["s10", "s2", "S1"], key=natural) == ["S1", "s2", "s10"]
    assert numbered(["b10", "", "b2", "b10"]).tolist() == [1, -1, 0, 1]


@pytest.mark.parametrize("fact", [{"compress_type": 9}, {"flag_bits": 1}])
def test_celeba_member_that_zipfile_cannot_open(tmp_path, fact):
    """Another compression (Deflate64), or a password: the picture is named and left out."""
    layouts.write_celeba(tmp_path, archive=True)
    faces = reader("celeba", tmp_path)
    assert len(faces) == 12
    info = faces.zip.getinfo(faces.paths[faces.members[3]])
    for key, value in fact.items():
        setattr(info, key, value)
    with pytest.raises(BadImage, match="000004.jpg: cannot be read"):
        faces.read(3)
    assert faces.read(4).shape == (218, 178, 3)


def by_pillow(monkeypatch, *args, **options) -> np.ndarray:
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "SMALL", 0)
        return decode(*args, **options)


@pytest.mark.parametrize("kind", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("turn", [1, 6])
def test_small_jpegs_equal_pillow(monkeypatch, kind, turn):
    image = Image.fromarray(layouts.pictures(1, 61, 47)[0]).convert(kind)
    exif = Image.Exif()
    exif[0x0112] = turn
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **({"exif": exif} if turn != 1 else {}))
    ours = decode(buffer.getvalue(), "x")
    assert ours.flags.writeable or kind == "CMYK" or turn != 1
    np.testing.assert_array_equal(ours, by_pillow(monkeypatch, buffer.getvalue(), "x"))


def test_truncated_jpegs_fail_as_in_pillow(monkeypatch):
    whole = layouts.encoded(layouts.pictures(1, 218, 178)[0])
    for length in (3, 30, 300, len(whole) // 2, len(whole) - 200, len(whole) - 3):
        said = []
        for read in (decode, lambda *args: by_pillow(monkeypatch, *args)):
            with pytest.raises(BadImage) as caught:
                read(whole[:length], "x.jpg")
            said.append(str(caught.value))
        assert said[0] == said[1], length

"""The drawn sets are written byte for byte in the style of the real ones, and our readers read them."""

import csv
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import DataConfig, build_faces, synthetic
from scripts.make_synthetic import CELEBA_NAMES, attr_lines, landmark_lines, main

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function that makes a layout once and gives its folder."""
    base, known = tmp_path_factory.mktemp("made"), {}

    def make(layout, *options):
        key = (layout, *options)
        if key not in known:
            known[key] = base / f"{layout}{len(known)}"
            main(["--layout", layout, "--out", str(known[key]), "-n", "40", "--per-identity", "2", *options])
        return known[key]

    return make


def truth(count=32):
    """The first training faces."""
    return synthetic.factors(0, np.arange(count), per_identity=2)


def test_rows_of_the_official_files_are_reproduced():
    signs = -np.ones((2, 40), int)
    signs[0, 1], signs[0, 2], signs[1, 0], signs[1, 2], signs[1, 3] = 1, 1, 1, 1, 1
    lines = attr_lines(["000001.jpg", "000007.jpg"], signs)
    assert lines[0] == "2" and lines[1].endswith("Wearing_Necktie Young ") and len(lines[1].split()) == 40
    assert lines[2].startswith("000001.jpg -1  1  1 -1 ") and lines[3].startswith("000007.jpg 1 -1  1  1 ")
    assert len(lines[2]) == 10 + 3 + 39 * 3 and len(lines[3]) == len(lines[2]) - 1
    (row,) = landmark_lines(["000001.jpg"], np.array([[69, 109, 106, 113, 77, 142, 73, 152, 108, 154]]))[2:]
    assert row == "000001.jpg 69  109  106  113   77  142   73  152  108  154"


def test_celeba_files(made):
    out = made("celeba")
    for name in ("list_attr_celeba", "list_eval_partition", "list_landmarks_align_celeba", "list_bbox_celeba"):
        data = (out / f"{name}.txt").read_bytes()
        assert data.endswith(b"\r\n") and data.count(b"\n") == data.count(b"\r\n")
        assert len(data.splitlines()) == 40 + {"list_attr_celeba": 2, "list_eval_partition": 0}.get(name, 2)
    assert (out / "list_attr_celeba.txt").read_bytes().split(b"\r\n")[1].endswith(b"Young ")
    assert (out / "list_eval_partition.txt").read_bytes().startswith(b"000001.jpg 0\r\n000002.jpg 0\r\n")
    assert (out / "identity_CelebA.txt").read_bytes().startswith(b"000001.jpg 1\r\n000002.jpg 1\r\n000003.jpg 2\r\n")
    with Image.open(out / "img_align_celeba" / "000040.jpg") as image:
        assert image.size == (178, 218) and image.format == "JPEG" and image.mode == "RGB"
    rows = (out / "list_landmarks_align_celeba.txt").read_text().splitlines()[2:]
    points = np.array([[int(v) for v in row.split()[1:5]] for row in rows])
    assert np.abs(points.mean(0) - [69.3, 111.2, 107.8, 111.1]).max() < 4  # the official mean eyes


def test_celeba_is_read_with_its_truth(made, tmp_path):
    faces = build_faces(DataConfig(dataset="celeba", root=str(made("celeba")), cache=str(tmp_path), image_size=64))
    assert (len(faces.train), len(faces.val), len(faces.test)) == (32, 4, 4)
    attr = faces.train.labels["attr"]
    known = [faces.meta["attributes"].index(name) for name in synthetic.ATTRIBUTES]
    assert np.array_equal(attr[:, known], synthetic.attributes(truth()))
    unknown = [faces.meta["attributes"].index(n) for n in CELEBA_NAMES if n not in synthetic.ATTRIBUTES]
    assert len(unknown) == 7 and not attr[:, unknown].any()
    parts = [set(part.labels["identity"]) for part in (faces.train, faces.val, faces.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 20
    # the points lie on the eyes of the packed picture: dark there, whatever the skin
    batch = faces.train.fixed(16)
    for image, eyes in zip(batch["image"], batch["landmarks"][:, :2], strict=True):
        x, y = ((eyes[0] + 1) / 2 * 64).int().tolist()
        patch = image.mean(0)[y - 2 : y + 3, x - 3 : x + 4]
        assert patch.std() > 0.05


def test_celeba_zip_holds_the_same_pictures(made):
    out, zipped = made("celeba"), made("celeba", "--zip")
    with zipfile.ZipFile(zipped / "img_align_celeba.zip") as archive:
        assert len(archive.namelist()) == 40
        same = archive.read("img_align_celeba/000005.jpg")
    assert same == (out / "img_align_celeba" / "000005.jpg").read_bytes()
    assert (out / "list_attr_celeba.txt").read_bytes() == (zipped / "list_attr_celeba.txt").read_bytes()


def test_fer2013_variants_hold_the_same_rows(made):
    plain = (made("fer2013") / "fer2013.csv").read_bytes()
    icml = (made("fer2013", "--variant", "icml") / "icml_face_data.csv").read_bytes()
    both = made("fer2013", "--variant", "traintest")
    train, test = (both / "train.csv").read_bytes(), (both / "test.csv").read_bytes()
    assert plain.startswith(b"emotion,pixels,Usage\n") and b"\r" not in plain and b'"' not in plain
    assert icml.startswith(b"emotion, Usage, pixels\n") and b"\r" not in icml
    assert train.startswith(b"emotion,pixels\r\n") and test.startswith(b'pixels\r\n"')
    rows = list(csv.DictReader(io.StringIO(plain.decode())))
    others = list(csv.DictReader(io.StringIO(icml.decode())))
    assert [(r["emotion"], r["pixels"], r["Usage"]) for r in rows] == [
        (r["emotion"], r[" pixels"], r[" Usage"]) for r in others
    ]
    assert [r["Usage"] for r in rows] == ["Training"] * 32 + ["PublicTest"] * 4 + ["PrivateTest"] * 4
    joined = [r["pixels"] for part in (train, test) for r in csv.DictReader(io.StringIO(part.decode()))]
    assert joined == [r["pixels"] for r in rows]
    assert all(len(r["pixels"].split(" ")) == 2304 for r in rows)
    assert [int(r["emotion"]) for r in rows[:32]] == truth()["expr"].tolist()


def test_fer2013_is_read(made, tmp_path):
    root = made("fer2013", "--ferplus")
    cfg = DataConfig(
        dataset="fer2013", root=str(root), cache=str(tmp_path), image_size=48, ferplus="fer2013new.csv", labels="soft"
    )
    faces = build_faces(cfg)
    assert (len(faces.train), len(faces.val), len(faces.test)) == (32, 4, 4)
    assert np.array_equal(faces.train.labels["label"], truth()["expr"])
    soft = faces.train.labels["label_soft"]
    assert np.array_equal(soft.argmax(1), truth()["expr"]) and np.allclose(soft.sum(1), 1)
    assert (root / "fer2013new.csv").read_text().split("\n")[0].startswith("Usage,Image name,neutral,happiness")


@pytest.mark.parametrize("size", [48, 96])
def test_tfd_file(made, size):
    from scipy.io import loadmat

    content = loadmat(made("tfd", "--size", str(size)) / f"TFD_{size}x{size}.mat")
    images, label, person, folds = (content[k] for k in ("images", "labs_ex", "labs_id", "folds"))
    assert images.shape == (40, size, size) and images.dtype == np.uint8
    assert label.shape == person.shape == (40, 1) and folds.shape == (40, 5)
    assert set(np.unique(label)) == {-1, *range(1, 8)} and (person == -1).any()
    for k in range(5):
        assert np.array_equal(folds[:, k] == 0, label[:, 0] == -1) and set(folds[:, k]) == {0, 1, 2, 3}
        sides = [set(person[folds[:, k] == part, 0]) for part in (1, 2, 3)]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    tests = np.stack([folds[:, k] == 3 for k in range(5)], 1)
    assert (tests.sum(1)[label[:, 0] > 0] == 1).all()  # every labelled face is a test face once
    assert (images.reshape(40, -1).max(1) == 0).sum() == 1  # the block of black images, in small
    # upright, eyes in row 10 of 48: darker than the cheeks below
    zoom = size // 48
    seen = images[label[:, 0] > 0].astype(float)
    assert (
        seen[:, 9 * zoom : 12 * zoom, 9 * zoom : 12 * zoom].mean()
        < seen[:, 18 * zoom : 22 * zoom, 9 * zoom : 12 * zoom].mean() - 10
    )


def test_tfd_is_read(made, tmp_path):
    faces = build_faces(
        DataConfig(dataset="tfd", root=str(made("tfd")), cache=str(tmp_path), image_size=48, unlabelled=True)
    )
    labels = np.concatenate([part.labels["label"] for part in (faces.train, faces.val, faces.test)])
    assert (labels == -1).sum() > 0 and faces.meta["classes"][3] == "happy"


def test_folders_are_read_by_name(made, tmp_path):
    root = made("folders", "--classes", "8", "--size", "32")
    assert {p.name for p in (root / "train").iterdir()} <= set(synthetic.CLASSES)
    cfg = DataConfig(dataset="folder", root=str(root), cache=str(tmp_path), image_size=32, identity_regex=r"id(\d+)")
    faces = build_faces(cfg)
    f = synthetic.factors(0, np.arange(32), per_identity=2, classes=8)
    counts = np.bincount(faces.train.labels["label"], minlength=len(faces.meta["classes"]))
    names = [synthetic.CLASSES[k] for k in f["expr"]]
    assert {n: c for n, c in zip(faces.meta["classes"], counts, strict=True) if c} == {
        n: names.count(n) for n in set(names)
    }
    assert len(set(faces.train.labels["identity"])) == 16


def test_the_same_command_gives_the_same_bytes(made, tmp_path):
    main(
        [
            "--layout",
            "folders",
            "--out",
            str(tmp_path / "b"),
            "-n",
            "40",
            "--per-identity",
            "2",
            "--classes",
            "8",
            "--size",
            "32",
        ]
    )
    a = made("folders", "--classes", "8", "--size", "32")
    files = sorted(p.relative_to(a) for p in a.rglob("*.png"))
    assert len(files) == 40 and files == sorted(p.relative_to(tmp_path / "b") for p in (tmp_path / "b").rglob("*.png"))
    assert all((a / p).read_bytes() == (tmp_path / "b" / p).read_bytes() for p in files)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--layout", "folders", "-n", "5"], "at least 20"),
        (["--layout", "fer2013", "--classes", "8"], "seven expressions"),
        (["--layout", "tfd", "--size", "64"], "48 or 96"),
        (["--layout", "folders", "--size", "16"], "32 to 256"),
        (["--layout", "folders", "--per-identity", "0"], "expected 1 or more"),
    ],
)
def test_impossible_options_have_a_sentence(options, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main([*options, "--out", str(tmp_path / "new")])
    assert left.value.code == 2 and sentence in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_a_full_folder_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main(["--layout", "folders", "--out", str(tmp_path)])
    assert "is not empty" in capsys.readouterr().err and (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.slow
def test_it_runs_as_a_script_from_anywhere(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "make_synthetic.py"), "--layout", "tfd", "--out", "t", "-n", "20"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "t" / "TFD_48x48.mat").is_file() and "20 drawn faces" in done.stdout

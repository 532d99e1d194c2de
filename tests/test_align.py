"""scripts/align.py: a folder of photos becomes a data set that every config reads."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from editor_contract import camera_photo
from PIL import Image

from data import DataConfig, build_faces
from data.photo import load_face
from scripts.align import CELEBA_EYES, SIZE, main

EYES = [65.4, 65.1, 90.6, 65.1]  # of the face of `camera_photo`


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos in two folders, a flat one and a file that is no photo."""
    root = tmp_path / "photos"
    (root / "trip").mkdir(parents=True)
    for name in ("a.png", "b.png", "trip/a.png"):
        camera_photo(str(root / name))
    picture = Image.open(root / "b.png").rotate(90, expand=True)  # the eyes lie elsewhere
    picture.save(root / "b.png")
    Image.new("RGB", (80, 60), (90, 90, 90)).save(root / "flat.png")
    (root / "broken.jpg").write_bytes(b"no photo")
    return root


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def labels(root: Path, rows: list[str], header: str = "file,Smiling,gender,person,split,x1,y1,x2,y2") -> Path:
    path = root.parent / "labels.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def rows_of(eyes: str = "65.4,65.1,90.6,65.1") -> list[str]:
    return [
        f"a.png,1,Male,ann,train,{eyes}",
        "b.png,no,Female,ben,val,65.1,114.6,65.1,89.4",
        f"trip/a.png,yes,Female,ann,test,{eyes}",
    ]


def test_photos_become_a_data_set(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    file = labels(photos, [row.replace("a.png", "./a.png") if row[0] == "a" else row for row in rows_of()])
    main([str(photos), str(out), "--labels", str(file), "--attr", "Male=gender:Male"])
    said = capsys.readouterr()
    assert "wrote 3 faces of 5 photos" in said.out
    rejected = table(out / "rejected.csv")
    assert sorted(row["file"] for row in rejected) == ["broken.jpg", "flat.png"]
    assert "no face was found" in next(row["reason"] for row in rejected if row["file"] == "flat.png")
    assert "left out: " in said.err and "flat.png" in said.err
    assert [row["file"] for row in table(out / "source.csv")] == ["a.png", "b.png", "trip/a.png"]

    cfg = DataConfig(dataset="celeba", root=str(out), crop="full", image_size=64, cache=str(tmp_path / "cache"))
    faces = build_faces(cfg)
    assert faces.meta["attributes"] == ["Smiling", "Male"] and faces.meta["identities"] == 2
    assert np.allclose(faces.meta["eyes"], CELEBA_EYES, atol=0.01)  # the eyes stand where CelebA's do
    assert [part.labels["attr"].tolist() for part in (faces.train, faces.val, faces.test)] == [
        [[1, 1]], [[0, 0]], [[1, 0]],
    ]  # fmt: skip
    expected = load_face(photos / "a.png", {"image_size": SIZE, "channels": 3, "eyes": CELEBA_EYES}, EYES).image
    written = np.asarray(Image.open(out / "img_align_celeba/000001.jpg"), np.float32)
    assert np.abs(written - (expected[0].permute(1, 2, 0).numpy() + 1) * 127.5).mean() < 3
    upright = np.asarray(Image.open(out / "img_align_celeba/000002.jpg"), np.float32)
    assert np.abs(upright - written)[30:-30, 30:-30].mean() < 12  # the turned photo of the same face


def test_the_framing_of_a_run_is_used(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    eyes = [[-0.4, -0.4], [0.4, -0.4]]
    (run / "meta.json").write_text(json.dumps({"eyes": eyes, "image_size": 96}))
    main([str(photos), str(tmp_path / "out"), "--labels", str(labels(photos, rows_of())), "--like", str(run)])
    assert Image.open(tmp_path / "out/img_align_celeba/000001.jpg").size == (192, 192)
    cfg = DataConfig(dataset="celeba", root=str(tmp_path / "out"), crop="full", cache=str(tmp_path / "cache"))
    assert np.allclose(build_faces(cfg).meta["eyes"], eyes, atol=0.01)


def test_photos_that_are_cut_already_are_only_resized(photos: Path, tmp_path: Path) -> None:
    main([str(photos), str(tmp_path / "out"), "--eyes", "whole"])
    assert not (tmp_path / "out/list_landmarks_align_celeba.txt").exists()
    assert len(list((tmp_path / "out/img_align_celeba").iterdir())) == 4  # also the flat one


@pytest.mark.parametrize(
    ("rows", "header", "more", "message"),
    [
        (["a.png,1", "a.png,0", "b.png,1"], "file,Smiling", [], "line 3: a.png is also on line 2"),
        (["a.png,1", "b.png,maybe", "trip/a.png,0"], "file,Smiling", [], "line 3: Smiling is 'maybe'; expected 0 or 1"),
        (["z.png,1"], "file,Smiling", [], "has none of the photos"),
        (["b.png,1"], "name,Smiling", [], "column 'file' is missing"),
        (["b.png,1"], "file,Smiling", ["--attr", "Male=sex:M"], "no column 'sex'"),
        (["b.png,1"], "file,Smiling", ["--attr", "Male"], "expected NAME=COLUMN:VALUE"),
        (["b.png,1"], "file,Smiling", ["--like", "nowhere"], "is not a run directory"),
    ],
)
def test_errors_name_the_place(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture, rows, header, more, message
) -> None:
    with pytest.raises(SystemExit) as done:
        main([str(photos), str(tmp_path / "out"), "--labels", str(labels(photos, rows, header)), *more])
    assert done.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

"""Landmarks: orders, files, units, mirroring, and the file in a pack's folder."""

import builtins
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.landmarks import (
    GROUPS,
    MESH_68,
    MESH_PAD,
    detect,
    enlarge,
    find_mediapipe,
    in_crop,
    mirror_points,
    points_from_folder,
    read_landmarks,
    to_unit,
    write_landmarks,
)
from engine.errors import UserError

POINTS = np.arange(136, dtype=float).reshape(68, 2)


def test_mirroring_twice_is_the_identity():
    rng = np.random.default_rng(0)
    for count in (68, 5):
        points = torch.from_numpy(rng.normal(size=(2, count, 2)))
        assert torch.equal(mirror_points(mirror_points(points)), points)
    points = torch.from_numpy(POINTS)[None]
    mirrored = mirror_points(points)
    pairs = {0: 16, 8: 8, 17: 26, 21: 22, 27: 27, 30: 30, 31: 35, 36: 45, 37: 44, 39: 42, 40: 47, 41: 46}
    pairs |= {48: 54, 49: 53, 51: 51, 55: 59, 57: 57, 60: 64, 61: 63, 65: 67, 66: 66}
    for a, b in pairs.items():
        assert mirrored[0, a].tolist() == [-POINTS[b, 0], POINTS[b, 1]]
        assert mirrored[0, b].tolist() == [-POINTS[a, 0], POINTS[a, 1]]


def test_landmark_groups_cover_all_points_once():
    assert sorted(k for group in GROUPS.values() for k in group) == list(range(68))
    assert len(MESH_68) == 68 and len(set(MESH_68)) == 68 and max(MESH_68) < 468


def test_units():
    assert np.allclose(to_unit(np.array([[0.0, 0.0], [100, 50], [50, 25]]), 100, 50), [[-1, -1], [1, 1], [0, 0]])
    matrix = np.array([[0.5, 0, -10], [0, 0.5, -20]])
    assert np.allclose(in_crop(np.array([20.0, 40.0]), matrix, 64), [-1, -1])
    assert np.allclose(in_crop(np.array([84.0, 104.0]), matrix, 64), [0, 0])


def test_landmark_files_in_all_formats_are_equal(tmp_path):
    np.save(tmp_path / "a.npy", POINTS)
    np.savetxt(tmp_path / "b.csv", POINTS, delimiter=",", header="x,y", comments="")
    np.savetxt(tmp_path / "c.csv", POINTS.reshape(1, -1), delimiter=",")
    body = "\n".join(f"{x + 1} {y + 1}" for x, y in POINTS)
    (tmp_path / "d.pts").write_text(f"version: 1\nn_points: 68\n{{\n{body}\n}}\n")
    for name in ("a.npy", "b.csv", "c.csv", "d.pts"):
        assert np.allclose(read_landmarks(tmp_path / name), POINTS + 0.5), name
    np.save(tmp_path / "five.npy", POINTS[:5])
    assert read_landmarks(tmp_path / "five.npy").shape == (5, 2)


def test_bad_files_are_errors(tmp_path):
    np.save(tmp_path / "seven.npy", POINTS[:7])
    (tmp_path / "words.csv").write_text("x,y\n1,two\n")
    (tmp_path / "bare.pts").write_text("1 2 3")
    (tmp_path / "x.txt").write_text("1")
    (tmp_path / "broken.npy").write_bytes(b"no array")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}]), allow_pickle=True)
    cases = {"seven.npy": "found 7", "words.csv": "not a file of landmarks", "bare.pts": "between { and }"}
    cases |= {
        "x.txt": "ends in .npy, .csv, .pts",
        "gone.npy": "does not exist",
        "broken.npy": "not a file of landmarks",
    }
    cases |= {"objects.npy": "not a file of landmarks"}
    for name, sentence in cases.items():
        with pytest.raises(UserError, match=sentence):
            read_landmarks(tmp_path / name)


def test_detect_gives_nan_for_faces_that_are_not_found():
    images = np.zeros((3, 1, 40, 80), np.uint8)
    images[1] = 9

    def find(rgb):
        assert rgb.shape == (40, 80, 3)
        return None if rgb.max() else np.tile([80.0, 20.0], (68, 1))

    points, found = detect(images, find)
    assert found.tolist() == [True, False, True] and np.isnan(points[1]).all()
    assert np.allclose(points[0], [1.0, 0.0])


def test_small_pictures_are_enlarged_and_padded_for_detection():
    rgb = np.full((48, 48, 3), 7, np.uint8)
    framed, scale = enlarge(rgb)
    assert framed.shape == (256 + 2 * MESH_PAD,) * 2 + (3,) and scale == pytest.approx(256 / 48)
    assert (framed == 7).all()


def test_a_missing_detector_is_an_error(monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest, **options):
        if name == "mediapipe":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match="no detector is installed.*pip install"):
        find_mediapipe()


def test_landmarks_in_the_folder_of_a_pack(tmp_path):
    for k in (0, 2):
        np.save(tmp_path / f"im{k}.npy", POINTS)
    boxes = np.array([[0, 0, 100, 100], [0, 0, 1, 1], [50, 50, 150, 150]], float)
    points = points_from_folder(tmp_path, ["sub/im0.png", "im1.png", "im2.jpg"], boxes)
    assert np.isnan(points[1]).all() and np.allclose(points[0], (POINTS + 0.5) / 50 - 1)
    assert np.allclose(points[2], (POINTS + 0.5 - 50) / 50 - 1)
    meta = {"fingerprint": "abc", "classes": ["happy", "sad"]}
    pack = SimpleNamespace(landmarks_file=tmp_path / "landmarks.npz", meta=meta, labels={"label": np.array([0, 0, 1])})
    lines = write_landmarks(pack, points, "files")
    assert lines[0].startswith("2 of 3 faces") and lines[1:] == ["happy: 1 of 2 not found", "sad: 0 of 1 not found"]
    with np.load(pack.landmarks_file) as stored:
        assert str(stored["fingerprint"]) == "abc" and stored["found"].tolist() == [True, False, True]
        assert stored["points"].shape == (3, 68, 2)
    with pytest.raises(UserError, match="named like the images"):
        points_from_folder(tmp_path, ["other.png"], boxes)

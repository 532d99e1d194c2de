"""Own photos: alignment, pasting back, unchanged pixels, and errors for unusable photos."""

import builtins

import numpy as np
import pytest
import torch
from PIL import Image

from data import synthetic
from data.crop import cut
from data.photo import (
    AlignedFace,
    change_mask,
    inverse,
    load_face,
    paste,
    similarity,
    transform,
)
from engine.errors import UserError

SIZE = 64


@pytest.fixture(scope="module")
def face():
    """A drawn face at 256 px (H, W, 3) and its two eyes in px."""
    f = synthetic.factors(0, np.array([3]))
    image = synthetic.render(f, 256)[0].transpose(1, 2, 0)
    points = synthetic.landmarks(f)[0]
    eyes = np.stack([points[36:42].mean(0), points[42:48].mean(0)])
    return image, (eyes + 1) / 2 * 256


@pytest.fixture(scope="module")
def meta(face):
    return {"image_size": SIZE, "channels": 3, "eyes": (face[1] / 256 * 2 - 1).tolist()}


@pytest.fixture(scope="module")
def turned(face, tmp_path_factory):
    """The face rotated by 15 degrees inside a larger photo of noise, and its eyes there."""
    image, eyes = face
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(60, 200, (500, 700, 3), dtype=np.uint8))
    angle = np.deg2rad(15)
    there = np.array([[np.cos(angle), -np.sin(angle), 330], [np.sin(angle), np.cos(angle), 90]])
    rows = inverse(there).ravel().tolist()
    layer = Image.fromarray(image).transform(photo.size, Image.Transform.AFFINE, rows, Image.Resampling.BICUBIC)
    stencil = Image.new("L", (256, 256), 255).transform(photo.size, Image.Transform.AFFINE, rows)
    photo.paste(layer, mask=stencil)
    path = tmp_path_factory.mktemp("photo") / "turned.png"
    photo.save(path)
    return path, transform(eyes, there), there


def text(eyes):
    return ",".join(f"{v:.3f}" for v in np.ravel(eyes))


def straight(face):
    """The face as a pack would hold it."""
    height, width = face[0].shape[:2]
    x8 = cut(face[0], (0, 0, width, height), SIZE, 3)
    return torch.from_numpy(x8.copy())[None] / 127.5 - 1


def test_a_rotated_face_is_aligned(turned, face, meta):
    path, eyes, there = turned
    aligned = load_face(path, meta, text(eyes))
    assert aligned.image.shape == (1, 3, SIZE, SIZE)
    centre = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    assert (aligned.image - straight(face))[centre].abs().mean() < 0.03
    assert np.allclose(transform(eyes, aligned.matrix), (np.array(meta["eyes"]) + 1) / 2 * SIZE, atol=1e-2)
    # photo -> crop is the face's own scale, turned back
    assert np.allclose(aligned.matrix[:, :2] @ there[:, :2], np.eye(2) * SIZE / 256, atol=1e-3)
    grid = (aligned.image + 1) * 127.5
    assert torch.allclose(grid, grid.round(), atol=1e-4)  # whole grey levels


def test_eyes_may_be_given_in_either_order(turned, meta):
    path, eyes, _ = turned
    a, b = load_face(path, meta, text(eyes)), load_face(path, meta, text(eyes[::-1]))
    assert torch.equal(a.image, b.image)


def test_paste_without_an_edit_returns_the_photo(turned, meta):
    path, eyes, _ = turned
    for channels in (3, 1):
        aligned = load_face(path, {**meta, "channels": channels}, text(eyes))
        model = aligned.image + 0.1  # a reconstruction that is not the photo
        same = paste(aligned, model, change_mask(model, model))
        assert np.array_equal(np.asarray(same), np.asarray(Image.open(path)))


def test_paste_changes_only_the_edited_area(turned, meta):
    path, eyes, _ = turned
    aligned = load_face(path, meta, text(eyes))
    edited = aligned.image.clone()
    edited[:, :, 40:50, 26:38] = torch.tensor([1.0, -1.0, -1.0])[None, :, None, None]  # a red box on the mouth
    mask = change_mask(aligned.image, edited)
    before, after = np.asarray(aligned.photo).astype(int), np.asarray(paste(aligned, edited, mask)).astype(int)
    changed = np.abs(after - before).max(2) > 0
    y, x = np.nonzero(changed)
    places = transform(np.stack([x + 0.5, y + 0.5], 1), aligned.matrix)
    radius = 2 * 2 + 2.5  # dilate and blur by 2 px each at 64 px, and the reach of the bicubic
    assert places[:, 0].min() > 26 - radius and places[:, 0].max() < 38 + radius
    assert places[:, 1].min() > 40 - radius and places[:, 1].max() < 50 + radius
    cx, cy = transform(np.array([32.0, 45.0]), inverse(aligned.matrix)).astype(int)
    assert after[cy, cx].tolist() == [255, 0, 0]


def test_align_and_paste_keep_positions(turned, face, meta):
    """Pasting the crop itself back gives the same face, blurred, not shifted."""
    path, eyes, _ = turned
    aligned = load_face(path, meta, text(eyes))
    back = paste(aligned, aligned.image)
    again = load_face_of(back, meta, eyes, path)
    inner = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    assert (again.image - aligned.image)[inner].abs().mean() < 0.03
    shifted = torch.roll(aligned.image, 1, 3)
    assert (shifted - aligned.image)[inner].abs().mean() > 0.06  # one pixel off would show


def load_face_of(image, meta, eyes, near):
    path = near.with_name("again.png")
    image.save(path)
    return load_face(path, meta, text(eyes))


def test_grey_models_change_luminance_only(turned, meta):
    path, eyes, _ = turned
    aligned = load_face(path, {**meta, "channels": 1}, text(eyes))
    assert aligned.image.shape == (1, 1, SIZE, SIZE)
    edited = (aligned.image + 0.2).clamp(-1, 1)
    after = np.asarray(paste(aligned, edited)).astype(int)
    before = np.asarray(aligned.photo).astype(int)
    assert np.abs(after - before).max() > 10
    inside = (after > 2).all(2) & (after < 253).all(2)  # where nothing clips, all three channels move alike
    change = (after - before)[inside]
    assert np.abs(change - change[:, :1]).max() <= 1


def test_paste_fades_out_at_the_border_of_the_crop(turned, meta):
    path, eyes, _ = turned
    aligned = load_face(path, meta, text(eyes))
    photo = Image.new("RGB", aligned.photo.size, (128, 128, 128))
    grey = AlignedFace(torch.zeros(1, 3, SIZE, SIZE), aligned.matrix, photo)
    after = np.asarray(paste(grey, torch.ones(1, 3, SIZE, SIZE))).astype(int)[..., 0]
    assert after.max() == 255
    step = max(np.abs(np.diff(after, axis=0)).max(), np.abs(np.diff(after, axis=1)).max())
    assert step < 40  # a hard edge would be 127


def test_change_mask_formula():
    before = torch.zeros(2, 3, 32, 32)
    after = before.clone()
    after[0, :, 10, 10] = 0.05  # half of the threshold
    after[1, :, 20, 20] = 1.0
    mask = change_mask(before, after)
    assert mask.shape == (2, 1, 32, 32)
    assert mask[0, 0, 10, 10].item() == pytest.approx(0.5) and mask[1, 0, 20, 20].item() == pytest.approx(1.0)
    # dilated to 3 x 3, blurred by 3 x 3: 1/9 at the corner of 5 x 5, nothing beyond
    assert mask[1, 0, 18, 18].item() == pytest.approx(1 / 9) and mask[1, 0, 17, 20] == 0
    assert torch.equal(change_mask(before, before), torch.zeros(2, 1, 32, 32))
    wide = change_mask(torch.zeros(1, 1, 128, 128), torch.nn.functional.pad(torch.ones(1, 1, 1, 1), (63, 64, 63, 64)))
    assert (wide[0, 0, 63] > 0).sum() == 17  # radius 4 twice


def test_similarity_transform_has_no_reflection():
    matrix = similarity(np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[1.0, 1.0], [1.0, 5.0]]))
    assert np.allclose(transform(np.array([[0.0, 0.0], [2.0, 0.0]]), matrix), [[1, 1], [1, 5]])
    assert np.linalg.det(matrix[:, :2]) == pytest.approx(4.0)
    assert np.allclose(transform(transform(np.array([3.0, 7.0]), matrix), inverse(matrix)), [3, 7])


def test_a_whole_photo_is_cropped_like_a_pack(face, meta, tmp_path):
    path = tmp_path / "face.png"
    Image.fromarray(face[0]).save(path)
    aligned = load_face(path, meta, "whole")
    assert torch.equal(aligned.image, straight(face))
    assert np.allclose(aligned.matrix, [[0.25, 0, 0], [0, 0.25, 0]])
    after = paste(aligned, -aligned.image, torch.ones(1, 1, SIZE, SIZE))
    assert np.abs(np.asarray(after).astype(int) - face[0])[0].max() > 20  # to the very edge: nothing lies beyond


def test_unusable_photos_are_errors(tmp_path, meta):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no picture")
    Image.effect_noise((300, 300), 60).convert("RGB").save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    Image.new("RGB", (12, 300)).save(tmp_path / "tiny.png")
    cases = {"absent.jpg": "does not exist", "empty.jpg": "cannot be read", "text.jpg": "cannot be read"}
    cases |= {"cut.jpg": "cannot be read", "tiny.png": "the photo has 12 x 300 px"}
    for name, sentence in cases.items():
        with pytest.raises(UserError, match=sentence):
            load_face(tmp_path / name, meta, "whole")


@pytest.mark.parametrize(
    ("eyes", "sentence"),
    [
        ("1,2,3", "expected four numbers"),
        ("a,b,c,d", "expected four numbers"),
        ("10,20,nan,20", "expected four numbers"),
        ("10,20,900,20", "outside .* 700 x 500 px"),
        ("-5,20,60,20", "outside"),
        ("10,20,11,20", "less than 4 px"),
    ],
)
def test_invalid_eyes_are_an_error(turned, meta, eyes, sentence):
    with pytest.raises(UserError, match=sentence):
        load_face(turned[0], meta, eyes)


def test_without_a_detector_only_square_photos_are_used(face, turned, meta, tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def refuse(name, *rest, **options):
        if name in ("cv2", "data.face_finder"):
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    path = tmp_path / "face.png"
    Image.fromarray(face[0]).save(path)
    assert torch.equal(load_face(path, meta).image, straight(face))
    assert "no face detector is installed" in capsys.readouterr().err
    with pytest.raises(UserError, match="no face detector is installed, and the photo is not square.*--eyes"):
        load_face(turned[0], meta)


def test_the_detector_needs_exactly_one_face(face, turned, meta, tmp_path):
    pytest.importorskip("cv2")
    empty = tmp_path / "empty.png"
    Image.new("RGB", (200, 200), (90, 120, 90)).save(empty)
    with pytest.raises(UserError, match="no face was found; give --eyes"):
        load_face(empty, meta)
    found = load_face(turned[0], meta)  # turned by 15 degrees
    eyes = transform(turned[1], found.matrix)
    assert np.abs(eyes - (np.array(meta["eyes"]) + 1) / 2 * SIZE).max() < 3  # px of 64
    two = Image.new("RGB", (600, 300), (150, 180, 196))
    for x in (10, 310):
        two.paste(Image.fromarray(face[0]), (x, 20))
    two.save(tmp_path / "two.png")
    with pytest.raises(UserError, match=r"2 faces were found; choose one with --eyes [\d,]+ or [\d,]+"):
        load_face(tmp_path / "two.png", meta)


def test_the_error_for_several_faces_lists_their_eyes(face, meta, tmp_path, monkeypatch):
    finder = pytest.importorskip("data.face_finder")
    faces = [
        finder.Face(np.array([[10.0, 20], [30, 20]]), 80.0, True),
        finder.Face(np.array([[90.0, 20], [120, 21]]), 70.0, True),
    ]
    monkeypatch.setattr(finder, "find_faces", lambda grey: faces)
    path = tmp_path / "face.png"
    Image.fromarray(face[0]).save(path)
    with pytest.raises(UserError, match="2 faces were found; choose one with --eyes 10,20,30,20 or 90,20,120,21"):
        load_face(path, meta)
    faces.pop()
    assert np.allclose(transform(faces[0].eyes, load_face(path, meta).matrix), (np.array(meta["eyes"]) + 1) / 2 * SIZE)
    small = finder.Face(faces[0].eyes + 50, 30.0, True)
    assert finder._main_faces([small, faces[0]]) == faces  # somebody in the background

"""`--detail warp`: a photo moves as the decoded face moves, and keeps its own pixels."""

import builtins
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data.photo import AlignedFace, inverse, paste
from editing import paint as painting
from editing.paint import detail_of, paint, paint_photo
from editing.warp import motion, warp_crop, warp_photo
from engine import UserError

SIZE = 64
SHIFT = 3.0  # px of the model


def texture(side: int, seed: int = 0, low: float = 2.0, high: float = 12.0) -> np.ndarray:
    """A smooth random picture (side, side, 3) in 0 .. 255, the same at every side."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    picture = np.zeros((side, side, 3))
    for _ in range(24):
        angle, wave, phase = rng.uniform(0, np.pi), rng.uniform(low, high), rng.uniform(0, 6.28, 3)
        along = 6.28 * wave * (x * np.cos(angle) + y * np.sin(angle))
        picture += np.sin(along[..., None] + phase) * 8
    return (128 + picture).clip(0, 255)


def field(side: int) -> np.ndarray:
    """The known motion (side, side, 2) in shares of the side: x and y, largest in the middle, 0 towards the border."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    bump = np.exp(-((x - 0.5) ** 2 + (y - 0.55) ** 2) / (2 * 0.09**2))
    return np.stack([0.4 * bump, bump], -1) * SHIFT / SIZE


def moved(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """picture(x + flow(x)), bilinear."""
    side = len(picture)
    centre = (np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1) + 0.5) / side + flow
    grid = torch.from_numpy(centre * 2 - 1)[None]
    image = torch.from_numpy(picture.transpose(2, 0, 1))[None]
    out = torch.nn.functional.grid_sample(image, grid, "bilinear", "border", align_corners=False)
    return out[0].numpy().transpose(1, 2, 0)


def tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture.transpose(2, 0, 1)).float()[None] / 127.5 - 1


def shrunk(picture: np.ndarray) -> Tensor:
    """(1, 3, 64, 64) in [-1, 1]: what a model shows of a picture."""
    return torch.nn.functional.interpolate(tensor(picture), (SIZE, SIZE), mode="area")


def photo_of(picture: np.ndarray, matrix: np.ndarray | None = None) -> AlignedFace:
    image = Image.fromarray(np.rint(picture).astype(np.uint8))
    matrix = np.array([[SIZE / image.width, 0, 0], [0, SIZE / image.width, 0]]) if matrix is None else matrix
    return AlignedFace(shrunk(picture), matrix, image)


@pytest.fixture(scope="module")
def case() -> tuple[AlignedFace, Tensor, Tensor, np.ndarray]:
    """A photo of 384 px with fine detail, the decoded face before and after a known motion, and the right answer."""
    coarse, fine = texture(384), (texture(384, 1, 40, 60) - 128) * 0.5
    truth = moved(coarse + fine, field(384))
    return photo_of(coarse + fine), shrunk(coarse), shrunk(moved(coarse, field(384))), truth


def error(picture: Image.Image, truth: np.ndarray) -> float:
    """Root mean squared error in the middle, grey levels."""
    part = (slice(130, 290), slice(120, 264))
    return float(np.sqrt(np.square(np.asarray(picture, float)[part] - truth[part]).mean()))


def test_a_known_motion_is_recovered(case) -> None:
    """Fails where the sign of the flow is wrong: the photo then moves the other way and the error grows."""
    photo, before, after, truth = case
    warped = warp_photo(photo, before, after)
    nothing, blended = error(photo.photo, truth), error(paint_photo(photo, before, after, "blend"), truth)
    assert nothing > 15
    assert error(warped, truth) < 0.35 * nothing
    assert error(warped, truth) < 0.6 * blended  # a blend loses the fine detail
    flow = motion(before, after).flow
    middle = flow[len(flow) * 55 // 100, len(flow) // 2] * SIZE
    assert np.allclose(middle, [0.4 * SHIFT, SHIFT], atol=0.6)


def test_no_edit_gives_the_photo_back_bit_for_bit(case) -> None:
    photo, before, _, _ = case
    other = before + 0.1  # a reconstruction that is not the photo
    assert np.array_equal(np.asarray(warp_photo(photo, other, other)), np.asarray(photo.photo))
    x = photo.image
    assert torch.equal(warp_crop(x, other, other), x)
    assert torch.equal(paint(x, other, other, "warp"), x)


def test_what_does_not_change_keeps_its_pixels(case) -> None:
    photo, before, after, _ = case
    near = (np.abs(field(384)).max(-1) * SIZE > 0.02)[..., None]
    quiet = torch.from_numpy(near.transpose(2, 0, 1)).float()[None]
    mask = torch.nn.functional.interpolate(quiet, (SIZE, SIZE), mode="area") > 0
    only = torch.where(mask, after, before)
    warped, old = np.asarray(warp_photo(photo, before, only)), np.asarray(photo.photo)
    assert np.array_equal(warped[:60], old[:60]) and np.array_equal(warped[:, :50], old[:, :50])
    assert not np.array_equal(warped, old)


def turned(photo: AlignedFace, angle: float = 0.3) -> tuple[AlignedFace, np.ndarray]:
    """The photo turned and enlarged inside a larger one, and the (2, 3) matrix that carries it there."""
    scale, c, s = 1.2, np.cos(angle), np.sin(angle)
    there = np.array([[scale * c, -scale * s, 260.0], [scale * s, scale * c, 90.0]])
    rng = np.random.default_rng(0)
    large = Image.fromarray(rng.integers(60, 200, (820, 900, 3), dtype=np.uint8))
    rows = inverse(there).ravel().tolist()
    layer = photo.photo.transform(large.size, Image.Transform.AFFINE, rows, Image.Resampling.BICUBIC)
    large.paste(layer, mask=Image.new("L", photo.photo.size, 255).transform(large.size, Image.Transform.AFFINE, rows))
    back = inverse(there) * (SIZE / photo.photo.width)
    return AlignedFace(photo.image, back, large), there


def test_a_turned_photo_is_warped_in_its_own_frame_and_not_beyond_the_crop(case) -> None:
    photo, before, after, truth = case
    large, there = turned(photo)
    warped = warp_photo(large, before, after)
    rows = there.ravel().tolist()
    back = warped.transform(photo.photo.size, Image.Transform.AFFINE, rows, Image.Resampling.BICUBIC)
    old = large.photo.transform(photo.photo.size, Image.Transform.AFFINE, rows, Image.Resampling.BICUBIC)
    assert error(back, truth) < 0.5 * error(old, truth)
    everywhere = warp_photo(large, before, before + 0.5)  # all of the crop changes
    changed = np.abs(np.asarray(everywhere, int) - np.asarray(large.photo, int)).max(-1) > 0
    y, x = np.nonzero(changed)
    places = np.stack([x + 0.5, y + 0.5], 1) @ large.matrix[:, :2].T + large.matrix[:, 2]
    assert places.min() > -0.5 and places.max() < SIZE + 0.5
    # No seam: at the border of the crop the edit has faded out.
    strength = np.abs(np.asarray(everywhere, int) - np.asarray(large.photo, int)).max(-1)[y, x]
    at_border = (places.min(1) < 0.5) | (places.max(1) > SIZE - 0.5)
    assert strength[at_border].max() < 16 < 40 < np.median(strength)


def test_what_was_not_there_is_taken_from_the_edit(case) -> None:
    """White teeth in a dark mouth are no motion: the edit itself is shown there."""
    photo, before, _, _ = case
    after = before.clone()
    after[:, :, 36:44, 24:40] = 1.0
    warped = np.asarray(warp_photo(photo, before, after), float)
    assert warped[38 * 6 : 42 * 6, 27 * 6 : 37 * 6].mean() > 235


def test_a_grey_model_moves_the_colours_too(case) -> None:
    photo, before, after, truth = case
    grey = AlignedFace(photo.image.mean(1, keepdim=True), photo.matrix, photo.photo)
    warped = warp_photo(grey, before.mean(1, keepdim=True), after.mean(1, keepdim=True))
    assert error(warped, truth) < 0.5 * error(photo.photo, truth)
    assert warp_crop(grey.image, before.mean(1, keepdim=True), after.mean(1, keepdim=True)).shape == (1, 1, SIZE, SIZE)


def test_the_warp_of_a_crop_is_that_of_the_photo(case) -> None:
    photo, before, after, _ = case
    crop = paint(photo.image, before, after, "warp")
    small = torch.nn.functional.interpolate(
        tensor(np.array(warp_photo(photo, before, after))), (SIZE, SIZE), mode="area"
    )
    inside = (slice(None), slice(None), slice(20, 50), slice(16, 48))
    assert (crop - small)[inside].abs().mean() < 0.5 * (photo.image - small)[inside].abs().mean()


def test_twelve_megapixels_take_less_than_three_seconds(case) -> None:
    _, before, after, _ = case
    picture = np.random.default_rng(0).integers(0, 255, (3000, 4000, 3), dtype=np.uint8)
    matrix = np.array([[SIZE / 2800, 0, -600 * SIZE / 2800], [0, SIZE / 2800, -100 * SIZE / 2800]])
    photo, start = AlignedFace(before, matrix, Image.fromarray(picture)), time.process_time()
    warp_photo(photo, before, after)
    assert time.process_time() - start < 3


def test_without_opencv_photos_are_blended_and_warp_says_how_to_install(
    case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    photo, before, after, _ = case
    assert detail_of(None, photo, "decode") == "warp" and detail_of(None, None, "decode") == "decode"
    assert detail_of("blend", photo, "decode") == "blend"
    real = builtins.__import__

    def missing(name: str, *args, **kwargs):
        if name == "cv2":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    painting._photo_detail.cache_clear()
    assert detail_of(None, photo, "decode") == "blend"
    assert "pip install 'opencv" in capsys.readouterr().err
    painting._photo_detail.cache_clear()
    with pytest.raises(UserError, match="pip install 'opencv"):
        paint_photo(photo, before, after, "warp")
    assert (
        paint_photo(photo, before, after, "blend").tobytes()
        == paste(photo, after, painting.change_mask(before, after)).tobytes()
    )

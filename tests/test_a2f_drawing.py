"""Drawings of users: paper, pen and format do not change the sketch."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from a2f.drawing import load_drawing
from a2f.jitter import jitter
from data.sketch import SIGMA, sketch
from data.synthetic import factors, render
from engine import UserError
from engine.grids import to_uint8


def face(paper=(255, 255, 255), pen=(20, 20, 20), size=(400, 400), mode="RGB") -> Image.Image:
    image = Image.new(mode, size, paper)
    draw = ImageDraw.Draw(image)
    x, y = size[0] // 2, size[1] // 2
    draw.ellipse([x - 120, y - 150, x + 120, y + 150], outline=pen, width=8)
    for side in (-50, 50):
        draw.ellipse([x + side - 18, y - 50, x + side + 18, y - 30], outline=pen, width=6)
    draw.arc([x - 50, y + 30, x + 50, y + 90], 20, 160, fill=pen, width=7)
    return image


def read(image: Image.Image, path, **options) -> torch.Tensor:
    image.save(path, **options)
    return load_drawing(path, 32, 0.95)


def test_paper_colour_and_line_contrast_do_not_change_a_drawing(tmp_path):
    plain = read(face(), tmp_path / "plain.png")
    assert plain.shape == (1, 1, 32, 32) and plain.min() >= -1 and plain.max() <= 1
    assert float((plain + 1).mean() / 2) == pytest.approx(0.95, abs=0.01)
    shade = np.asarray(face(), np.float32) * np.linspace(0.6, 1, 400)[None, :, None]  # a lamp from the right
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    others = {
        "white on black": read(face((10, 10, 10), (240, 240, 240)), tmp_path / "dark.png"),
        "grey paper": read(face((150, 150, 150), (10, 10, 10)), tmp_path / "grey.png"),
        "uneven light": read(Image.fromarray(shade.astype(np.uint8)), tmp_path / "shade.png"),
        "transparent": read(face((0, 0, 0, 0), (20, 20, 20, 255), mode="RGBA"), tmp_path / "alpha.png"),
        "blue pen": read(face(pen=(20, 30, 140)), tmp_path / "blue.png"),
        "turned by EXIF": read(face().rotate(90), tmp_path / "exif.jpg", exif=exif, quality=95),
    }
    for name, other in others.items():
        both = torch.corrcoef(torch.stack([plain.flatten(), other.flatten()]))
        assert both[0, 1] > 0.97, name
        assert (plain - other).abs().mean() < 0.06, name


def test_a_page_that_is_not_square_is_padded(tmp_path):
    wide = read(face(size=(700, 400)), tmp_path / "wide.png")
    assert wide[0, 0, :6].min() > 0.9 and wide[0, 0, -6:].min() > 0.9  # paper above and below


def test_an_empty_page_is_an_error_and_a_photo_gives_a_note(tmp_path, capsys):
    with pytest.raises(UserError, match="the page is empty"):
        read(Image.new("RGB", (200, 200), "white"), tmp_path / "empty.png")
    with pytest.raises(UserError, match="does not exist"):
        load_drawing(tmp_path / "no.png", 32, 0.95)
    read(face(), tmp_path / "drawing.png")
    assert capsys.readouterr().err == ""
    photo = Image.fromarray(render(factors(seed=0, index=np.arange(1)), 128)[0].transpose(1, 2, 0))
    read(photo, tmp_path / "photo.png")
    assert "looks like a photo" in capsys.readouterr().err


def test_a_training_sketch_is_read_nearly_unchanged(tmp_path):
    x = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0)), size=128)
    s = sketch(2 * (0.3 + 0.6 * x) - 1)
    Image.fromarray(to_uint8(s)[0, 0]).save(tmp_path / "s.png")
    small = torch.nn.functional.interpolate(s, size=32, mode="area")
    found = load_drawing(tmp_path / "s.png", 32, float((small + 1).mean() / 2))
    assert torch.corrcoef(torch.stack([found.flatten(), small.flatten()]))[0, 1] > 0.9


def test_jitter_changes_strokes_and_keeps_the_content():
    torch.manual_seed(0)
    x = torch.nn.functional.interpolate(torch.rand(64, 3, 6, 6), size=32) * 1.4 - 0.7
    s = sketch(x, sigma=SIGMA)
    changed = jitter(x, s, SIGMA)
    same = (changed == s).flatten(1).all(1)
    assert changed.shape == s.shape and changed.abs().max() <= 1
    assert 5 < int(same.sum()) < 30  # a quarter stays
    assert jitter(x[:0], s[:0], SIGMA).shape == (0, 1, 32, 32)

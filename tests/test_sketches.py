"""Sketch files: joined by name, cropped, flipped and augmented with their faces."""

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps

from data import DataConfig, build_faces
from engine.errors import UserError
from tests import layouts


@pytest.fixture
def cfg(tmp_path: Path) -> DataConfig:
    """CelebA files and, as sketches, the photos' negatives in grey: every pixel tells where it came from."""
    layouts.write_celeba(tmp_path / "celeba", n=12)
    (tmp_path / "sketches").mkdir()
    for path in sorted((tmp_path / "celeba/img_align_celeba").glob("*.jpg")):
        with Image.open(path) as photo:
            ImageOps.invert(photo.convert("L")).save(tmp_path / "sketches" / f"{path.stem}.png")
    return DataConfig(
        dataset="celeba", root=str(tmp_path / "celeba"), cache=str(tmp_path / "cache"), image_size=32,
        sketch=str(tmp_path / "sketches"),
    )  # fmt: skip


def grey(x: torch.Tensor) -> torch.Tensor:
    return (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


@pytest.mark.parametrize("options", [{}, {"augment_crop": 0.2, "augment_shift": 0.1, "augment_brightness": 0.0}])
def test_sketches_are_cropped_and_flipped_with_their_faces(cfg: DataConfig, options: dict) -> None:
    for key, value in options.items():
        setattr(cfg, key, value)
    faces = build_faces(cfg)
    assert "sketch" in faces.meta["keys"] and "sketch" not in faces.train.labels
    batch = next(faces.train.batches(32, seed=1))
    assert batch["sketch"].shape == (32, 1, 32, 32) and batch["sketch"].dtype == torch.float32
    assert (batch["sketch"] + grey(batch["image"])).abs().mean() < 0.02  # resized grey against grey resized
    assert (batch["sketch"].flip(-1) + grey(batch["image"])).abs().mean() > 0.1
    plain = faces.test.fixed(2)
    assert (plain["sketch"] + grey(plain["image"])).abs().mean() < 0.02


def test_brightness_augmentation_does_not_change_sketches(cfg: DataConfig) -> None:
    cfg.augment_brightness = 0.5
    batch, cfg.augment_brightness = next(build_faces(cfg).train.batches(16)), 0.0
    assert torch.equal(batch["sketch"], next(build_faces(cfg).train.batches(16))["sketch"])


def test_faces_without_a_sketch_are_left_out(cfg: DataConfig, capsys: pytest.CaptureFixture) -> None:
    whole = build_faces(cfg).meta
    for path in sorted(Path(cfg.sketch).iterdir())[:2]:
        path.unlink()
    (Path(cfg.sketch) / "000003.png").write_bytes(b"")
    faces = build_faces(cfg)
    assert sum(len(part) for part in (faces.train, faces.val, faces.test)) == 9
    said = capsys.readouterr().err
    assert "leaves out 3 faces without a sketch" in said and "000003.png: the file is empty" in said
    assert faces.meta["fingerprint"] != whole["fingerprint"]


def test_pairs_have_their_own_sketches(cfg: DataConfig) -> None:
    cfg.pair, cfg.label_attribute = True, "Smiling"
    try:
        batch = next(build_faces(cfg).train.batches(8))
    except UserError as error:
        pytest.fail(str(error))
    assert (batch["pair_sketch"] + grey(batch["pair_image"])).abs().mean() < 0.02


def test_an_unusable_sketch_folder_is_an_error(cfg: DataConfig, tmp_path: Path) -> None:
    cfg.sketch = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="nowhere is not a folder"):
        build_faces(cfg)
    (tmp_path / "empty").mkdir()
    cfg.sketch = str(tmp_path / "empty")
    with pytest.raises(UserError, match="no sketch of any face; expected the names of the faces, such as 000001.jpg"):
        build_faces(cfg)

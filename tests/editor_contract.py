"""The contract of every editor. The test of each family calls `check` on a tiny run."""

import numpy as np
import torch
from PIL import Image

from data import synthetic
from editing.editor import Editor, partway

EYES = "65.4,65.1,90.6,65.1"  # of the face that `camera_photo` draws


class GreyJudge:
    """A judge that classifies by mean grey value: the brightest images are of the last of its names."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)

    def logits(self, images8: torch.Tensor) -> torch.Tensor:
        level = images8.float().mean((1, 2, 3)) / 255 * (len(self.names) - 1)
        return -10 * (level[:, None] - torch.arange(len(self.names))).abs()

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.softmax(1)


def camera_photo(path: str) -> str:
    """Write a grey photo with a drawn face in it; its path."""
    face = synthetic.render(synthetic.factors(0, np.arange(1) + 7), 96)[0].transpose(1, 2, 0)
    picture = np.full((140, 180, 3), 90, np.uint8)
    picture[20:116, 30:126] = face
    Image.fromarray(picture).save(path)
    return str(path)


def check(editor: Editor, request: str, photo: str, atol: float = 2e-5) -> None:
    """Check the whole contract. photo: path of `camera_photo`. atol: tolerance between a face alone and in a batch."""
    wanted = editor.parse(request)
    names = ["seed:0", "seed:5"] if "read" in editor.unsupported else ["test:0", "test:5"]
    faces = editor.subjects(names)
    check_codes(editor, faces, wanted, atol)
    if "draw" not in editor.unsupported:
        check_draws(editor, request, atol)
    if "read" not in editor.unsupported:
        check_photo(editor, wanted, photo)
    if "draw" not in editor.unsupported and "read" not in editor.unsupported:
        assert set(editor.codes(faces)) == set(editor.draw([1]).code), "codes of draws and of faces have other keys"


def check_codes(editor: Editor, faces, wanted, atol: float) -> None:
    """Strength 0 is the reconstruction; a face is encoded once and does not depend on other faces."""
    zero, one = editor.edit(faces, wanted, (0.0, 1.0))
    recon = editor.reconstruct(faces)
    size, channels = editor.meta["image_size"], editor.meta["channels"]
    assert recon.shape == (2, channels, size, size)
    assert torch.equal(zero, recon), "strength 0 is not the reconstruction"
    assert not torch.equal(one, recon), "the request changes nothing"
    assert editor.codes(faces) is faces.code, "a face is encoded twice"
    for value in faces.code.values():
        assert value.device.type == "cpu" and not value.requires_grad and len(value) == 2
    for images in (zero, one):
        assert images.device.type == "cpu" and not images.requires_grad
        assert images.min() >= -1 and images.max() <= 1
    target = editor.target(faces, wanted)
    assert set(target) == set(faces.code)
    kept = [key for key in target if target[key] is faces.code[key]]
    half = partway(faces.code, target, 0.5)
    assert all(half[key] is faces.code[key] for key in kept)
    alone = editor.subjects(faces.names[1:])
    close = (editor.edit(alone, wanted)[0] - one[1:]).abs()
    assert close.max() <= max(atol, 2 / 127), f"a face depends on other faces: {close.max():.2g}"
    assert close.mean() <= atol, f"a face depends on other faces: {close.mean():.2g}"
    assert editor.predict_labels(faces).shape == editor.labels(faces).shape


def check_draws(editor: Editor, request: str, atol: float) -> None:
    """seed:k depends only on k; a generated face keeps its code."""
    three, again = editor.draw([3, 4, 5]), editor.draw([4])
    assert three.names == ["seed:3", "seed:4", "seed:5"]
    assert (three.images[1:2] - again.images).abs().mean() <= atol, "seed:4 depends on the other seeds"
    assert not torch.equal(three.images[0], three.images[1])
    assert torch.equal(editor.reconstruct(three), three.images), "a generated face loses its code"
    requested = editor.draw([3], editor.parse(request))
    assert requested.images.shape == three.images[:1].shape and requested.code is not None


def check_photo(editor: Editor, wanted, photo: str) -> None:
    """A photo can be edited together with a face of the data; its labels are unknown."""
    faces = editor.subjects([photo, "test:1"], EYES)
    assert faces.photos[0] is not None and faces.photos[1] is None
    assert editor.edit(faces, wanted).shape[:2] == (1, 2)
    assert editor.labels(faces)[0].isnan().all(), "the labels of a photo are not known"

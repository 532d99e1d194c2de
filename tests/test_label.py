"""evaluation.label and evaluation.framing: labels that a guide reads, marked as such."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from layouts import lines
from PIL import Image

from data import DataConfig, build_faces
from evaluation import classifier
from evaluation.framing import reframe
from evaluation.label import main, read_marks

GUIDE_EYES = [[-0.4, -0.2], [0.4, -0.2]]
SET_EYES = (40, 40, 88, 40)  # px of 128


class BrightMouth:
    """Reads `happy` where the pixels of the mouth, in its own framing, are bright."""

    names, meta = ["sad", "happy"], {"eyes": GUIDE_EYES, "image_size": 48}
    origin = SimpleNamespace(run="guide", step=3, sha256="f" * 64)

    def logits(self, images8: torch.Tensor) -> torch.Tensor:
        assert images8.shape[-1] == 48
        mouth = images8[:, :, 34:40, 20:28].float().mean((1, 2, 3)) / 255
        return torch.stack([1 - mouth, mouth], 1)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return logits


def write_set(root: Path, happy: list[bool], labels: list[str] | None = None) -> Path:
    """Grey faces of 128 px; a bright patch where the mouth is, by the eyes."""
    (root / "img_align_celeba").mkdir(parents=True)
    names = [f"{i + 1:06d}.png" for i in range(len(happy))]
    for name, bright in zip(names, happy, strict=True):
        picture = np.full((128, 128, 3), 60, np.uint8)
        # Of the guide: y .55 at an eye distance of .8; here the eyes are 48 px apart, so 48 * .75 / .8 = 45 px below.
        picture[76:94, 52:76] = 250 if bright else 20
        Image.fromarray(picture).save(root / "img_align_celeba" / name)
    place = " ".join(str(v - 0.5) for v in SET_EYES)
    lines(root / "list_landmarks_align_celeba.txt", [str(len(names)), "lx ly rx ry", *(f"{n} {place}" for n in names)])
    if labels:
        lines(root / "list_attr_celeba.txt", labels)
    return root


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The set to label (with an attribute of its own), and one with true labels of which one is wrong."""
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))

    def load(run: str | Path, role: str | None = None) -> BrightMouth:
        assert role == "guide"
        return BrightMouth()

    monkeypatch.setattr(classifier, "load", load)
    own = ["4", "Male", *(f"{i + 1:06d}.png {(-1, 1)[i % 2]}" for i in range(4))]
    truth = ["6", "Smiling", *(f"{i + 1:06d}.png {(1, -1)[i % 2]}" for i in range(5)), "000006.png 1"]
    return (
        write_set(tmp_path / "faces", [True, True, False, True], own),
        write_set(tmp_path / "true", [True, False, True, False, True, False], truth),
    )


def run(folder: Path, labelled: Path, attr: str = "Smiling=happy") -> None:
    main([str(folder), "--guide", "runs/guide", "--attr", attr, "--labelled", str(labelled)])


def test_labels_are_read_in_the_framing_of_the_guide_and_marked(sets: tuple[Path, Path], capsys) -> None:
    folder, labelled = sets
    run(folder, labelled)
    faces = build_faces(DataConfig(dataset="celeba", root=str(folder), crop="full"))
    assert faces.meta["attributes"] == ["Male", "Smiling"]
    table = {}
    for part in (faces.train, faces.val, faces.test):
        table |= dict(zip(part.rows.tolist(), part.labels["attr"].tolist(), strict=True))
    assert [table[i] for i in range(4) if i in table] == [
        row for i, row in enumerate([[0, 1], [1, 1], [0, 0], [1, 1]]) if i in table
    ]
    found = json.loads((folder / "labels_read.json").read_text())["Smiling"]
    assert found["sha256"] == "f" * 64 and found["class"] == "happy" and found["share"] == 0.75
    assert found["accuracy"]["images"] == 6 and found["accuracy"]["accuracy"] == round(5 / 6, 4)
    assert "were read by a classifier" in capsys.readouterr().err


def test_a_second_reading_replaces_the_first_but_never_what_people_gave(sets: tuple[Path, Path], capsys) -> None:
    folder, labelled = sets
    run(folder, labelled)
    first = (folder / "list_attr_celeba.txt").read_text()
    run(folder, labelled)
    assert (folder / "list_attr_celeba.txt").read_text() == first and list(read_marks(folder)) == ["Smiling"]
    for arguments, message in (
        ((folder, labelled, "Male=happy"), "has no attribute Male"),
        ((labelled, labelled), "has Smiling already, and not from this command"),
        ((folder, folder), "was itself read by a classifier"),
        ((folder, labelled, "Smiling=glad"), "with one of sad, happy"),
    ):
        with pytest.raises(SystemExit) as done:
            run(*arguments)
        assert done.value.code == 2 and message in capsys.readouterr().err


def test_a_set_without_a_label_file_gets_one(sets: tuple[Path, Path]) -> None:
    folder, labelled = sets
    (folder / "list_attr_celeba.txt").unlink()
    run(folder, labelled)
    assert (folder / "list_attr_celeba.txt").read_text().splitlines()[1:4] == [
        "Smiling",
        "000001.png  1",
        "000002.png  1",
    ]


def test_reframing_puts_the_eyes_where_they_are_wanted() -> None:
    images = torch.zeros(1, 1, 100, 100, dtype=torch.uint8)
    eyes = [[-0.3, 0.1], [0.3, 0.2]]
    for x, y in eyes:
        column, row = int((x + 1) * 50), int((y + 1) * 50)
        images[0, 0, row - 3 : row + 3, column - 3 : column + 3] = 255
    moved = reframe(images, eyes, GUIDE_EYES, 50)[0, 0].float()
    assert moved.shape == (50, 50)
    for x, y in GUIDE_EYES:
        assert moved[int((y + 1) * 25), int((x + 1) * 25)] > 200
    assert moved[25:].max() < 30
    assert torch.equal(
        reframe(images, eyes, eyes, 50), torch.nn.functional.avg_pool2d(images.float(), 2).round().byte()
    )

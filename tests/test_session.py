"""What the `sample.py` of every family shares: faces by name, labels as a table, sheets, answers that are known."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import DataConfig, build_faces, synthetic
from data.labels import label_names, label_table
from data.request import parse_request
from engine import Grid, UserError
from engine.grids import grid_image
from evaluation.export import rows_of, target_texts, true_answers
from evaluation.session import Session, spread, take_images
from evaluation.sheets import animate, blocks, filled, square, strip_of
from latents.area import area

META = {"dataset": "toy", "attributes": ["Smiling", "Male"], "classes": ["happy", "sad", "neutral"]}


def test_a_table_of_labels_knows_what_it_does_not_know() -> None:
    batch = {"index": torch.arange(3), "label": torch.tensor([1, -1, 2])}
    batch["attr"] = torch.tensor([[1.0, 0.0], [0.0, float("nan")], [1.0, 1.0]])
    table = label_table(batch, META)
    assert label_names(META) == ["Smiling", "Male", "happy", "sad", "neutral"]
    assert table[0].tolist() == [1, 0, 0, 1, 0] and table[2].tolist() == [1, 1, 0, 0, 1]
    assert table[1].isnan().tolist() == [False, True, True, True, True]
    assert label_table(batch, META | {"attributes": [], "classes": []}).shape == (3, 0)


def test_area_under_the_curve() -> None:
    label = torch.tensor([0, 0, 1, 1, float("nan")])
    assert area(torch.tensor([0.1, 0.2, 0.3, 0.4, 9.0]), label) == 1.0
    assert area(torch.tensor([0.1, 0.3, 0.2, 0.4, 9.0]), label) == 0.75
    assert np.isnan(area(torch.tensor([0.1]), torch.tensor([1.0])))


def test_files_after_a_request_are_images() -> None:
    words, images = ["Smiling=0.7", "happy", "me.jpg", "test:3", "a/b.png"], ["x.png"]
    take_images(words, images)
    assert words == ["Smiling=0.7", "happy"] and images == ["x.png", "me.jpg", "test:3", "a/b.png"]
    take_images(None, images)


def test_sheets_and_strips(tmp_path: Path) -> None:
    grid = blocks([torch.zeros(13, 1, 4, 4), torch.ones(13, 1, 4, 4)], ["a", "b"])
    assert grid.images.shape[:2] == (4, 12) and grid.rows == ["a", "b", "a", "b"]
    assert grid.images[3, 0].mean() == 1 and grid.images[0].sum() == 0
    assert square(torch.zeros(7, 1, 4, 4)).images.shape[:2] == (3, 3) and len(filled(torch.zeros(7, 1, 4, 4), 4)) == 8
    assert strip_of("-1:2:7") == [-1, -0.5, 0, 0.5, 1, 1.5, 2]
    assert str(strip_of("-1:2:7")[2]) == "0.0"  # not a speck beside it
    with pytest.raises(UserError, match="from:to:number"):
        strip_of("3")
    steps = torch.linspace(-1, 1, 3)[:, None, None, None, None].expand(3, 2, 1, 64, 64)
    with Image.open(animate(steps, tmp_path / "a.webp")) as moving:
        assert moving.n_frames == 4 and moving.size == (128, 256)  # there and back; two faces below each other


def test_a_caption_stands_below_its_tile() -> None:
    images = torch.ones(2, 3, 1, 8, 8)
    plain, told = grid_image(Grid(images)), grid_image(Grid(images, tiles=[["happy .97"] * 3, ["", "x", ""]]))
    assert told.height > plain.height
    ink = np.asarray(told.convert("L")) < 128
    rows = np.nonzero(ink.any(1))[0]
    assert rows.min() >= 80 and ink[:82].sum() == 0 and ink[82:97].sum() > 0


def test_faces_are_spread() -> None:
    assert spread(4, 12).tolist() == [0, 3, 6, 9] and spread(0, 3).tolist() == [0, 1, 2] and len(spread(5, 0)) == 0


def test_rows_of_a_manifest() -> None:
    rows = rows_of(["a.png", "b.png"], "edit", [{"source": "s.png", "seed": 3}] * 2, target=["happy", "sad"])
    assert [row.target for row in rows] == ["happy", "sad"] and rows[1].source == "s.png" and rows[1].seed == 3


def test_what_was_asked_is_written_for_each_face() -> None:
    table = torch.tensor([[1.0, 0, 1, 0, 0], [0.0, 0, 0, 1, 0]])
    told = lambda text: target_texts(parse_request(text, META["classes"], META["attributes"]), table, META)  # noqa: E731
    assert told(["Smiling=flip"]) == ["Smiling=0", "Smiling=1"]
    assert told(["happy", "Male=1"]) == ["happy;Male=1"] * 2
    assert told(["happy=0"]) == ["neutral"] * 2
    assert told(["happy=0.3", "sad=0.6"]) == ["sad"] * 2  # of a mixture the strongest


def test_the_true_answer_is_the_same_person_changed_as_asked(tmp_path: Path) -> None:
    cfg = DataConfig(dataset="synthetic", image_size=32, num_train=20, num_val=10, num_test=30, cache=str(tmp_path))
    faces = build_faces(cfg)
    batch, meta = faces.test.take(np.arange(30)), faces.meta
    table, index = label_table(batch, meta), batch["index"].numpy()
    answer = lambda text: true_answers(cfg, meta, index, parse_request(text, *names), table)  # noqa: E731
    names = (meta["classes"], meta["attributes"])
    happy = answer(["happy"])
    shown = table[:, label_names(meta).index("happy")] == 1
    assert (happy != batch["image"]).flatten(1).any(1)[~shown].all()
    turned = answer(["Smiling=flip"])
    number = int(torch.nonzero(table[:, label_names(meta).index("Smiling")] == 0)[0])
    drawn = synthetic.factors(cfg.seed, index[[number]] - 30 + synthetic.SPLIT_OFFSET["test"] * 10, classes=7)
    expected = synthetic.render(synthetic.apply(drawn, "Smiling", np.ones(1)), 32)
    assert torch.equal(turned[number], torch.from_numpy(expected)[0].float() / 127.5 - 1)
    assert answer(["happy=0.5", "sad=0.5"]) is None and answer(["Smiling=+1.0"]) is None
    assert true_answers(cfg, meta | {"dataset": "celeba"}, index, parse_request(["happy"], *names), table) is None


class Opened(Session):
    """A session without a run."""

    def __init__(self, faces, folder: Path) -> None:
        self.__dict__["faces"] = faces
        self.meta, self.dir, self.facts = faces.meta, folder, {"n_bits": 5}
        self.args = Namespace(out=None, seed=4)
        self.method = Namespace(origin=Namespace(run="r", step=7, sha256="0"))


def test_a_session_names_faces_and_notes_what_it_writes(tmp_path: Path) -> None:
    cfg = DataConfig(dataset="synthetic", image_size=32, num_train=20, num_val=10, num_test=30, cache=str(tmp_path))
    session = Opened(build_faces(cfg), tmp_path / "run")
    assert session.named("me.jpg") is None and session.named("C:1") is None
    assert session.named("test:3")["index"].item() == 33
    assert session.choose([], "val", 2) == ["val:0", "val:5"] and session.choose(["a.png"], "val", 2) == ["a.png"]
    with pytest.raises(UserError, match="test:0 to test:29"):
        session.named("test:30")
    assert session.usual(lambda batch: torch.arange(float(len(batch["index"])))) == pytest.approx(8.91)
    path = session.write(Grid(torch.zeros(1, 1, 1, 8, 8)), "mode", faces=2)
    note = json.loads(path.with_suffix(".json").read_text())
    assert path == tmp_path / "run/pictures/mode.png" and (note["step"], note["n_bits"], note["faces"]) == (7, 5, 2)

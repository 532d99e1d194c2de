"""scripts/benchmark_london.py on drawn persons: pairs, boxes, baselines, a run, the figure."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from layouts import lines
from PIL import Image
from test_editing import Toy

from data import synthetic
from scripts import benchmark_london as london

PARTS = {1: 0, 2: 0, 3: 1, 4: 2, 5: 2}  # person: train, val or test


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn persons, neutral and happy, in the layout of the London set: 178 x 218 px, image 2k - 1 neutral."""
    root = tmp_path_factory.mktemp("london")
    (root / "img_align_celeba").mkdir()
    factors = synthetic.factors(0, np.arange(len(PARTS)))
    rows: dict[str, list[str]] = {"attr": [], "split": [], "identity": [], "landmarks": []}
    for smiling, name in enumerate(("neutral", "happy")):
        drawn = synthetic.apply(factors, name)
        points = (synthetic.landmarks5(synthetic.landmarks(drawn)) + 1) / 2 * 128 + [25, 50] - 0.5
        for i, image in enumerate(synthetic.render(drawn, 128)):
            file, page = f"{2 * i + 1 + smiling:06d}.jpg", np.full((218, 178, 3), 120, np.uint8)
            page[50:178, 25:153] = image.transpose(1, 2, 0)
            Image.fromarray(page).save(root / "img_align_celeba" / file, quality=95)
            rows["attr"].append(f"{file} 1 {2 * smiling - 1}")
            rows["split"].append(f"{file} {PARTS[i + 1]}")
            rows["identity"].append(f"{file} {i + 1}")
            rows["landmarks"].append(f"{file} " + " ".join(str(round(v)) for v in points[i].ravel()))
    rows = {key: sorted(value) for key, value in rows.items()}
    lines(root / "list_attr_celeba.txt", ["10", "Male Smiling", *rows["attr"]])
    lines(root / "list_eval_partition.txt", rows["split"])
    lines(root / "identity_CelebA.txt", rows["identity"])
    lines(root / "list_landmarks_align_celeba.txt", ["10", "a b c d e f g h i j", *rows["landmarks"]])
    return root


class MouthToy(Toy):
    """A toy whose edit brightens the middle of the face."""

    def decode(self, code):
        x = 0.5 * code["x"]
        x[:, :, 18:24, 10:22] += 0.5 * code["y"][:, self.attributes.index("Smiling"), None, None, None]
        return x.clamp(-1, 1)


class BrightJudge:
    """Classifies a face as happy if it is brighter than the mean."""

    classes, names, heads = ["happy", "neutral"], ["happy", "neutral"], ("expression",)
    meta = {"image_size": 48, "channels": 1, "eyes": [[-0.38, -0.24], [0.38, -0.24]]}
    origin = SimpleNamespace(run="judge", step=1, sha256="a" * 64)

    def logits(self, images8: torch.Tensor) -> torch.Tensor:
        assert images8.shape[1:] == (1, 48, 48)
        bright = images8.float().mean((1, 2, 3)) - 128
        return torch.stack([bright, -bright], 1)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.softmax(1)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    def load(path: Path, role: str) -> BrightJudge:
        assert role == "judge"
        return BrightJudge()

    monkeypatch.setattr(london.classifier, "load", load)
    monkeypatch.setattr(london, "open_editor", lambda run: MouthToy(run))
    run = tmp_path / "toy" / "run"
    run.mkdir(parents=True)
    (run / "environment.json").write_text(json.dumps([{"command": ["toy.py"], "seed": 3, "cpu_seconds": 90.0}]))
    return str(run)


def test_pairs_are_of_one_person_and_boxes_hold_the_landmarks(folder: Path) -> None:
    persons = london.read_persons(folder, "test")
    assert [file.name for file in persons.files] == ["000007.jpg", "000009.jpg"]
    assert persons.neutral.shape == persons.smiling.shape == (2, 3, 218, 178)
    mouth, eyes = persons.boxes((3, 4)), persons.boxes((0, 1))
    for i in range(2):
        (x, y), (left, right) = persons.points[i, 3:].mean(0).astype(int), persons.points[i, :2].astype(int)
        assert mouth[i, y, x] and not mouth[i, left[1], left[0]] and not mouth[i, 5, 5]
        assert eyes[i, left[1], left[0]] and eyes[i, right[1], right[0]] and not eyes[i, y, x]


def test_baselines_know_the_answer_and_a_run_is_measured(folder: Path, run: str, tmp_path: Path) -> None:
    out = tmp_path / "results"
    for words in (["baselines"], ["toy", run]):
        london.main([*words, "--data", str(folder), "--out", str(out / f"{words[0]}.json")])
    found = {r["run"]: r["metrics"] for r in json.loads((out / "baselines.json").read_text())["runs"]}
    none, mean, truth = (found[name] for name in ("no-edit", "class-mean-difference", "ground-truth"))
    assert truth["PSNR mouth"] == 60 and none["SSIM to source"] == 1 and none["sharpness"] == 1
    assert none["target gain"] == 0 and mean["target gain"] != 0
    assert none["PSNR mouth"] < truth["PSNR mouth"] and mean["sharpness"] != 1
    toy = json.loads((out / "toy.json").read_text())
    assert [r["row"] for r in toy["runs"]] == ["toy, warp", "toy, blend", "toy, decode"]
    warp, blend, decode = (r["metrics"] for r in toy["runs"])
    assert decode["sharpness"] < blend["sharpness"] < 1.2 and warp["SSIM to source"] < 1
    assert toy["protocol"]["persons"] == {"val": 1, "test": 2}
    assert toy["runs"][0]["metrics_val"].keys() == warp.keys()


def test_the_figure_shows_the_first_persons(folder: Path, run: str, tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    london.main(["figure", run, "--data", str(folder), "--n", "2", "--out", str(path)])
    with Image.open(path) as sheet:
        assert sheet.width > 2 * 178 and sheet.height > 3 * 218


def test_errors_say_what_is_expected(folder: Path, run: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for words, message in (
        (["vae"], "expected the run directories"),
        (["baselines", run], "expected the run directories of a method, or `baselines` without any"),
        (["figure", run], "--out FILE.png"),
        (["baselines", "--data", str(tmp_path)], "has no list_eval_partition.txt"),
    ):
        with pytest.raises(SystemExit) as done:
            london.main([*words, *([] if "--data" in words else ["--data", str(folder)])])
        assert done.value.code == 2 and message in capsys.readouterr().err

"""scripts/benchmark_fairface.py: the linear judge reads, the baselines move the right way, a run is measured."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_editing import Toy

from scripts import benchmark_fairface as fairface


def coloured(y: torch.Tensor) -> torch.Tensor:
    """Noise faces (N, 3, 32, 32) uint8: the first attribute brightens the left half, the second the right half."""
    x = torch.randint(60, 100, (len(y), 3, 32, 32), generator=torch.Generator().manual_seed(0))
    x[..., :16] += (60 * y[:, 0]).long()[:, None, None, None]
    x[..., 16:] += (60 * y[:, 1]).long()[:, None, None, None]
    return x.byte()


class MixedToy(Toy):
    """A toy in whose few faces every second one is Male."""

    def take(self, split, places):
        faces = super().take(split, places)
        faces.batch["attr"][:, self.meta["attributes"].index("Male")] = torch.tensor([p % 2 for p in places]).float()
        return faces


def test_the_judge_reads_and_baselines_flip_what_is_asked() -> None:
    y = torch.randint(0, 2, (80, 2), generator=torch.Generator().manual_seed(1)).float()
    x = coloured(y)
    judge = fairface.LinearJudge(x, y)
    assert ((judge.predict(x) == (y > 0.5)).double().mean(0) > 0.95).all()
    found = fairface.baseline_edits(x, y, x, y)
    none, moved = (
        fairface.measure(found[kind], x, y, ("Male", "Young"), judge) for kind in ("no-edit", "class-mean-difference")
    )
    assert none["metrics"]["target accuracy"] < 0.05 and none["metrics"]["sharpness"] == 1
    assert moved["per_target"]["Male"] > 0.95 and moved["per_target"]["Young"] > 0.95


def test_a_run_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(fairface, "open_editor", lambda run: MixedToy(run))
    monkeypatch.setattr(fairface, "ATTRIBUTES", ("Male",))
    (tmp_path / "environment.json").write_text(json.dumps([{"command": ["toy.py"], "seed": 3, "cpu_seconds": 90.0}]))
    for method in ("baselines", "toy"):
        fairface.main([method, str(tmp_path), "--n", "8", "--out", str(tmp_path / f"{method}.json")])
    toy = json.loads((tmp_path / "toy.json").read_text())
    assert [run["row"] for run in toy["runs"]] == ["toy, warp", "toy, blend", "toy, decode"]
    assert toy["protocol"]["faces"] == 8 and set(toy["protocol"]["judge_accuracy"]) == {"Male"}
    assert toy["runs"][0]["cpu_minutes"] == 1.5 and toy["runs"][2]["metrics"]["sharpness"] < 1
    monkeypatch.setattr(fairface, "ATTRIBUTES", ("Bald",))
    with pytest.raises(SystemExit):
        fairface.main(["toy", str(tmp_path), "--out", str(tmp_path / "x.json")])
    assert "its data have none of Bald" in capsys.readouterr().err


def test_the_figure_shows_the_photos_and_their_flips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of img_align_celeba by the index of the face; each edit starts from its own photo."""
    toy = MixedToy(tmp_path)
    toy.method.cfg.data.root = str(tmp_path)
    (tmp_path / "img_align_celeba").mkdir()
    indices = fairface.labelled(toy, "test", 3, ["Male"])[0].batch["index"].tolist()
    for i in range(max(indices) + 1):
        level = 20 + 70 * indices.index(i) if i in indices else 255
        Image.new("RGB", (48, 48), (level, level, level)).save(tmp_path / f"img_align_celeba/{i:06d}.png")
    monkeypatch.setattr(fairface, "open_editor", lambda run: toy)
    out = tmp_path / "figure.png"
    fairface.main(["figure", str(tmp_path), "--n", "3", "--out", str(out)])
    pixels = np.asarray(Image.open(out).convert("RGB"))
    top, bottom = pixels[96], pixels[-97]  # the middle of the photos, and of the last row
    panels = pixels[-190:-4, -190:-4].astype(int), pixels[-384:-198, -190:-4].astype(int)
    assert abs(panels[0] - panels[1]).max() > 20  # the flip changes the photo
    for i, middle in enumerate((-485, -291, -97)):
        assert (
            abs(int(top[middle].mean()) - (20 + 70 * i)) <= 1 and abs(int(bottom[middle].mean()) - (20 + 70 * i)) < 60
        )

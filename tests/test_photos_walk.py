"""docs/photos.md from end to end on drawn photos: align, train the recipe a few steps, continue, edit a photo."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from editor_contract import EYES, camera_photo
from PIL import Image

from scripts import align
from scripts import edit as edit_script
from vae import train

pytestmark = pytest.mark.slow  # trains

ROOT = Path(__file__).resolve().parent.parent
TINY = ["model.width=8", "model.latent_dim=8", "train.total_steps=3", "train.batch_size=4", "train.val_images=4"]
CONFIG = str(ROOT / "configs/vae/photos64_cpu.yaml")


def commands(program: str) -> list[list[str]]:
    """The commands of the document that begin with this program, as words after it."""
    text = (ROOT / "docs/photos.md").read_text(encoding="utf-8").replace("\\\n", " ")
    fenced = "\n".join(re.findall(r"^```\n(.*?)^```", text, re.M | re.S))
    return [shlex.split(line)[2:] for line in fenced.splitlines() if line.startswith(f"python {program} ")]


def test_the_walk_of_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))
    photos = tmp_path / "photos"
    photos.mkdir()
    rows = ["file,Smiling,person,split,x1,y1,x2,y2"]
    for i in range(60):
        camera_photo(str(photos / f"{i}.png"))
        picture = np.asarray(Image.open(photos / f"{i}.png")).astype(int)
        picture[75:95, 65:92] += 40 * (i % 2)  # "smiles" are bright mouths
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(photos / f"{i}.png")
        rows.append(f"{i}.png,{i % 2},p{i // 2},{'train' if i < 50 else 'val' if i < 56 else 'test'},{EYES}")
    Path("labels.csv").write_text("\n".join(rows))
    first, like = (words for words in commands("scripts/align.py") if words[0] == "photos")
    align.main(first)  # section 4
    train.main(["--config", CONFIG, "--run-dir", "runs/vae/photos64", "data.root=datasets/mine", "data.eyes=[]",
                "data.attributes=[Smiling]", *TINY])  # fmt: skip
    align.main(like)
    words = next(words for words in commands("vae/train.py") if "data.root=datasets/mine64" in words)
    words[words.index("--config") + 1] = CONFIG
    train.main([*words, *TINY])
    started, continued = (json.loads(Path(f"runs/vae/{r}/meta.json").read_text()) for r in ("photos64", "mine64"))
    assert np.allclose(started["eyes"], continued["eyes"], atol=0.02)

    camera_photo("me.png")  # section 3
    words = next(iter(commands("scripts/edit.py")))
    released = "pretrained/stargan_london"
    words = [str(ROOT / w) if w == released else w for w in words if w not in ("holiday", "me.jpg")]
    edit_script.main(["me.png", *words, "--eyes", EYES, "--from", "Smiling=0"])
    files = ("me.png", "edits/vae_photos64_me.png", "edits/pretrained_stargan_london_me.png")
    before, *edits = (np.asarray(Image.open(path).convert("RGB")) for path in files)
    assert all(before.shape == after.shape and np.array_equal(before[:10], after[:10]) for after in edits)
    with Image.open("edits/sheet.png") as sheet:
        assert sheet.width > 3 * edit_script.SIDE  # photo and two edits, from the photo's own pixels

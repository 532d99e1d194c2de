"""Speed of the data pipeline, compared with CelebA of torchvision and a DataLoader.

    python scripts/bench_data.py                       # on drawn faces in CelebA's layout
    python scripts/bench_data.py --root datasets/celeba --images 20000

Prints one line per measurement, with its target: images/s from a pack (20 times the DataLoader), images/s of packing
(as fast as the DataLoader).
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from data import DataConfig, build_faces
from data.pack import open_pack

SIZE, CROP, BATCH, TURNS = 64, 148, 64, 5
ROWS = {
    "list_attr_celeba.txt": ("{n}\nSmiling Male \n", "{name} 1 -1\n"),
    "list_landmarks_align_celeba.txt": (
        "{n}\n" + " ".join(f"p{k}" for k in range(10)) + "\n",
        "{name} 69 111 108 111 88 135 73 152 105 152\n",
    ),
    "list_bbox_celeba.txt": ("{n}\nimage_id x_1 y_1 width height\n", "{name} 95 71 226 313\n"),
    "list_eval_partition.txt": ("", "{name} 0\n"),
    "identity_CelebA.txt": ("", "{name} 1\n"),
}


def write_layout(folder: Path, source: Path | None, count: int) -> int:
    """Write the five text files of CelebA and `count` images (links to real ones, or 128 drawn faces); their number."""
    images = folder / "celeba" / "img_align_celeba"
    images.mkdir(parents=True)
    if source:
        files = sorted(path for path in source.iterdir() if path.suffix == ".jpg")[:count]
        for path in files:
            (images / path.name).symlink_to(path.resolve())
        names = [path.name for path in files]
    else:
        names = [f"{i + 1:06d}.jpg" for i in range(count)]
        drawn = drawn_jpegs(128)
        for i, name in enumerate(names):
            (images / name).write_bytes(drawn[i % len(drawn)])
    for file, (head, row) in ROWS.items():
        text = head.format(n=len(names)) + "".join(row.format(name=name) for name in names)
        (folder / "celeba" / file).write_text(text)
    return len(names)


def drawn_jpegs(count: int) -> list[bytes]:
    """Drawn faces of 178 x 218 px as JPEG files."""
    import io

    from PIL import Image

    from data import synthetic

    files = []
    for x in synthetic.render(synthetic.factors(0, np.arange(count) * 10), 218):
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(x.transpose(1, 2, 0)[:, 20:198])).save(buffer, "JPEG", quality=95)
        files.append(buffer.getvalue())
    return files


def rate(batches: Iterable, seconds: float, warm: int = 3) -> float:
    """Images per second after `warm` batches, until the iterator or the time ends."""
    count, start = 0, time.perf_counter()
    for number, batch in enumerate(batches):
        images = batch["image"] if isinstance(batch, dict) else batch[0]
        if number < warm:
            start = time.perf_counter()
            continue
        count += len(images)
        if time.perf_counter() - start > seconds:
            break
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return count / (time.perf_counter() - start)


def torchvision_loader(root: Path, workers: int) -> Iterable:
    """Decode, crop, resize and scale every image in every epoch."""
    import torchvision.transforms as T
    from torchvision.datasets import CelebA

    CelebA._check_integrity = lambda self: True  # the md5 sums are those of the official files
    steps = [
        T.CenterCrop(CROP),
        T.Resize(SIZE),
        T.ToTensor(),
        T.RandomHorizontalFlip(),
        T.Normalize([0.5] * 3, [0.5] * 3),
    ]
    faces = CelebA(root, split="all", target_type="attr", transform=T.Compose(steps))
    return torch.utils.data.DataLoader(faces, BATCH, shuffle=True, num_workers=workers, persistent_workers=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder with img_align_celeba/; default: drawn faces")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    args = parser.parse_args()
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = write_layout(folder, args.root / "img_align_celeba" if args.root else None, args.images)
        print(f"{count:,} images of CelebA's layout at {SIZE} px, batches of {BATCH}, {workers} cores, "
              f"{torch.get_num_threads()} threads, torch {torch.__version__}")  # fmt: skip
        loader, reference, packing = torchvision_loader(folder, workers), 0.0, 0.0
        for turn in range(TURNS):
            reference = max(reference, rate(loader, args.seconds))
            cfg = DataConfig(
                dataset="celeba", root=str(folder), cache=str(folder / f"cache{turn}"), image_size=SIZE, crop=str(CROP)
            )
            start = time.perf_counter()
            open_pack(cfg)
            packing = max(packing, count / (time.perf_counter() - start))
        print(f"torchvision + DataLoader({workers} workers): {reference:,.0f} images/s (the best of {TURNS} turns)")
        print(f"packing: {packing:,.0f} images/s = {packing / reference:.2f} x (target 1)")
        for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
            faces = build_faces(cfg).train
            ours = max(rate(faces.batches(BATCH, device=device), args.seconds) for _ in range(TURNS))
            print(f"batches from the pack on {device}: {ours:,.0f} images/s = {ours / reference:.1f} x (target 20)")


if __name__ == "__main__":
    main()

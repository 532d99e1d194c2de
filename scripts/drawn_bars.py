"""Measurements of the drawn faces for docs/drawn_faces.md: `python scripts/drawn_bars.py [PART ...] [--device cpu]`.

Parts: speed, prevalence, change, expression_64, expression_32, identity (default: all). The expression parts train a
network of four convolutions on faces of 2,000 persons and test it on 300 other persons, in colour at 64 px and in grey
at 32 px. `identity` trains the same network to classify the 2,000 persons and compares the 300 by its features.
`--persons` and `--epochs` give a shorter trial.
"""

import argparse
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.synthetic import ATTRIBUTES, CLASSES, SPLIT_OFFSET, apply, attributes, factors, landmarks, render

PER_PERSON = 10
TEST_PERSONS = 300


class SmallNet(nn.Module):
    """Four convolutions, pooled to 4x4, one hidden layer of 128 (`trunk`). Input (N, C, S, S) in [-1, 1].

    Small pictures get wider layers: about the same work a face.
    """

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        first = 16 if size >= 64 else 32
        widths, layers, c = (first, 2 * first, 4 * first, 128), [], channels
        for k, w in enumerate(widths):
            layers += [nn.Conv2d(c, w, 3, padding=1, bias=False), nn.BatchNorm2d(w), nn.ReLU()]
            if size // 2**k > 4:
                layers.append(nn.MaxPool2d(2))
            c = w
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * c, 128))
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


def split_factors(seed: int, split: str, persons: int, **options) -> dict[str, np.ndarray]:
    """Factors of `persons` persons of a split, 10 pictures each, 8 classes."""
    first = SPLIT_OFFSET[split] * PER_PERSON
    return factors(seed, np.arange(first, first + persons * PER_PERSON), PER_PERSON, classes=8, **options)


def train(x: Tensor, y: Tensor, classes: int, args: argparse.Namespace, epochs: int, flip: bool = True) -> SmallNet:
    """Fit a SmallNet on bytes x (N, C, S, S) and labels y with Adam and a cosine rate."""
    torch.manual_seed(args.seed)
    net = SmallNet(x.shape[1], x.shape[2], classes).to(args.device)
    net = net.to(memory_format=torch.channels_last)
    optimizer, steps = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2), len(x) // 128 * epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for rows in order[: len(x) // 128 * 128].split(128):
            batch = scaled(x[rows], args.device)
            batch = batch.flip(3) if flip and torch.rand(()) < 0.5 else batch
            loss = F.cross_entropy(net(batch), y[rows].to(args.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def scaled(x: Tensor, device: str) -> Tensor:
    return (x.to(device).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def outputs(net: nn.Module, x: Tensor, device: str) -> Tensor:
    return torch.cat([net(scaled(part, device)).cpu() for part in x.split(500)])


def expression(args: argparse.Namespace, size: int, grey: bool) -> None:
    known, unseen = split_factors(args.seed, "train", args.persons), split_factors(args.seed, "test", TEST_PERSONS)
    x, x_test = (torch.from_numpy(render(f, size, grey)) for f in (known, unseen))
    y, y_test = torch.from_numpy(known["expr"]), torch.from_numpy(unseen["expr"])
    start = time.time()
    net = train(x, y, 8, args, args.epochs)
    logits = outputs(net, x_test, args.device)
    right, seven = logits.argmax(1) == y_test, y_test < 7
    right7 = (logits[:, :7].argmax(1) == y_test)[seven].float().mean()
    weak = right[torch.from_numpy(unseen["intensity"] < 0.55)].float().mean()
    print(
        f"\nexpression, {size} px {'grey' if grey else 'colour'}: {len(x)} faces of {args.persons} persons, "
        f"{args.epochs} epochs, {time.time() - start:.0f} s; {len(x_test)} faces of {TEST_PERSONS} unseen persons"
    )
    print(f"  8 classes {right.float().mean():.3f}   7 classes {right7:.3f}   intensity .4-.55: {weak:.3f}")
    print("  " + "  ".join(f"{c} {right[y_test == k].float().mean():.3f}" for k, c in enumerate(CLASSES)))
    confusion = torch.zeros(8, 8, dtype=torch.long).index_put_((y_test, logits.argmax(1)), torch.tensor(1), True)
    pairs = [(int(confusion[a, b]), CLASSES[a], CLASSES[b]) for a in range(8) for b in range(8) if a != b]
    print("  most mistaken: " + ", ".join(f"{a} as {b} {n}" for n, a, b in sorted(pairs)[:-6:-1]), flush=True)


def expression_64(args: argparse.Namespace) -> None:
    expression(args, 64, grey=False)


def expression_32(args: argparse.Namespace) -> None:
    expression(args, 32, grey=True)


def identity(args: argparse.Namespace, size: int = 32) -> None:
    """At 32 px: enough to tell persons apart, and 15 epochs of it are cheap."""
    known, unseen = split_factors(args.seed, "train", args.persons), split_factors(args.seed, "test", TEST_PERSONS)
    x, x_test = (torch.from_numpy(render(f, size)) for f in (known, unseen))
    net = train(x, torch.from_numpy(known["identity"]), args.persons, args, 3 * args.epochs)
    e = F.normalize(outputs(net.trunk, x_test, args.device), dim=1)
    who = torch.from_numpy(unseen["identity"])
    alike = e @ e.T
    same = who[:, None] == who[None, :]
    off = ~torch.eye(len(who), dtype=torch.bool)
    nearest = who[(alike - 9 * (~off).float()).argmax(1)]
    threshold = alike[~same].kthvalue(int(0.99 * int((~same).sum()))).values
    verified = (alike[same & off] > threshold).float().mean()
    what = f"{len(x)} faces of {args.persons} persons, {3 * args.epochs} epochs; {TEST_PERSONS} unseen persons"
    nearest_share = (nearest == who).float().mean()
    print(f"\nidentity, {size} px colour: {what}")
    print(f"  nearest neighbour {nearest_share:.3f}   verified at FAR 1e-2 {verified:.3f}", flush=True)


def change(args: argparse.Namespace) -> None:
    """Mean absolute change, grey levels: neutral to each expression; the mouth's box for a smile."""
    f = apply(split_factors(args.seed, "test", 60), "neutral")
    for size in (32, 64):
        before = render(f, size, True)[:, 0].astype(np.float32)
        rows = []
        for name in CLASSES:
            moved = np.abs(render(apply(f, name), size, True)[:, 0] - before)
            rows.append(f"{name} {moved.mean():.2f}")
            if name == "happy":
                box = mouth_box(f, size)
                per_face = (moved * box).sum((1, 2)) / box.sum((1, 2))
                weak = np.abs(render(apply(f, "happy", 0.4), size, True)[:, 0] - before)
                weak = ((weak * box).sum((1, 2)) / box.sum((1, 2))).mean()
        print(f"\nchange from neutral, {size} px grey, whole picture: " + "  ".join(rows))
        print(
            f"  smile in the mouth's box: {per_face.mean():.1f} (10th percentile {np.percentile(per_face, 10):.1f}; "
            f"at intensity .4: {weak:.1f})",
            flush=True,
        )


def mouth_box(f: dict[str, np.ndarray], size: int) -> np.ndarray:
    """(N, S, S) bool: the box of the mouth's points, neutral and smiling."""
    points = np.concatenate([landmarks(f)[:, 48:68], landmarks(apply(f, "happy"))[:, 48:68]], 1)
    low, high = points.min(1)[:, None, None], points.max(1)[:, None, None]
    p = (2 * np.arange(size) + 1) / size - 1
    grid = np.stack(np.meshgrid(p, p), -1)[None]
    return ((grid >= low) & (grid <= high)).all(-1)


def prevalence(args: argparse.Namespace) -> None:
    share = attributes(split_factors(args.seed, "train", args.persons)).mean(0)
    print(f"\nprevalence, {args.persons * PER_PERSON} faces, 8 classes, balanced prior")
    cells = [f"{name:20s} {v:.3f}" for name, v in zip(ATTRIBUTES, share)]
    for k in range(0, len(cells), 3):
        print("  " + "   ".join(cells[k : k + 3]), flush=True)


def speed(args: argparse.Namespace) -> None:
    print("\nfaces a CPU-second, one thread, best of 3")
    for size, n in ((32, 1280), (64, 640), (128, 160), (256, 48)):
        f, row = factors(args.seed, np.arange(n)), []
        for grey in (False, True):
            seconds = []
            for _ in range(3):
                start = time.process_time()
                render(f, size, grey)
                seconds.append(time.process_time() - start)
            row.append(f"{n / min(seconds):.0f}")
        print(f"  {size:3d} px   colour {row[0]}   grey {row[1]}", flush=True)


PARTS = {f.__name__: f for f in (speed, prevalence, change, expression_64, expression_32, identity)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures of the drawn faces.")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--persons", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    for name in args.parts or PARTS:
        PARTS[name](args)


if __name__ == "__main__":
    main()

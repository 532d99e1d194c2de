"""Memory of Glow's backpropagation against depth: `python scripts/flow_memory.py [--out docs/flow_memory.md]`.

Counts the bytes that autograd keeps between forward and backward, each storage once, parameters left out; on a GPU
also the peak of forward and backward, and what of it the parameters' gradients are, which grow with K in any case (an
optimiser's state is in neither). Prints a table; with --out writes it as a page, with a picture beside it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from engine.files import atomic_text, atomic_write
from flow.config import ModelConfig
from flow.model import GlowFlow

MIB = 2**20
KINDS = {  # name: memory, anchor_every
    "stored": ("stored", 0),
    "reversible, an anchor every 4 steps": ("reversible", 4),
    "reversible": ("reversible", 0),
}


def build(kind: str, steps: int, args: argparse.Namespace) -> GlowFlow:
    memory, anchors = KINDS[kind]
    torch.manual_seed(0)
    cfg = ModelConfig(num_levels=args.levels, num_steps=steps, width=args.width, memory=memory, anchor_every=anchors)
    flow = GlowFlow(3, args.size, cfg).to(args.device)
    flow.initialised.fill_(True)
    flow.ready = True
    return flow


def kept_bytes(flow: GlowFlow, v: Tensor) -> int:
    """What the graph of one forward pass holds."""
    held: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in flow.parameters()}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        log_prob = flow.encode(v).log_prob
    assert log_prob.requires_grad
    return sum(held.values())


def peak_bytes(flow: GlowFlow, v: Tensor) -> int:
    """Peak of forward and backward on a GPU, beyond what stood there before: with the parameters' gradients."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    flow.encode(v).log_prob.mean().backward()
    return torch.cuda.max_memory_allocated() - before


def measure(depths: Sequence[int], args: argparse.Namespace) -> dict[str, list[list[float]]]:
    """{kind: one row of MiB a depth}."""
    v = torch.rand(args.batch, 3, args.size, args.size, device=args.device) - 0.5
    found: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    for kind, rows in found.items():
        for steps in depths:
            flow = build(kind, steps, args)
            row = [kept_bytes(flow, v) / MIB]
            if args.device == "cuda":
                row += [peak_bytes(flow, v) / MIB, sum(p.grad.nbytes for p in flow.parameters()) / MIB]
            rows.append(row)
    return found


def table(depths: Sequence[int], found: dict[str, list[list[float]]]) -> str:
    lines = ["| kept for the backward pass, MiB | " + " | ".join(f"K {k}" for k in depths) + " |"]
    lines.append("| --- |" + " ---: |" * len(depths))
    for kind, rows in found.items():
        lines.append(f"| {kind} | " + " | ".join(f"{row[0]:.1f}" for row in rows) + " |")
        if len(rows[0]) > 1:
            for place, what in ((1, "peak of forward and backward"), (2, "of it, the parameters' gradients")):
                lines.append(f"| {kind}: {what} | " + " | ".join(f"{row[place]:.1f}" for row in rows) + " |")
    return "\n".join(lines)


def draw(depths: Sequence[int], found: dict[str, list[list[float]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.2), layout="constrained")
    axes = figure.subplots()
    for kind, rows in found.items():
        axes.plot(depths, [row[0] for row in rows], marker="o", label=kind)
    axes.set_xlabel("steps a level, K")
    axes.set_ylabel("kept for the backward pass, MiB")
    axes.set_ylim(bottom=0)
    axes.legend()
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64, help="px")
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--depths", default="2,4,8,16,32", help="K")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, help="a page to write, as docs/flow_memory.md")
    args = parser.parse_args()
    depths = [int(k) for k in args.depths.split(",")]
    found = measure(depths, args)
    text = table(depths, found)
    print(text)
    if args.out:
        picture = args.out.parent / "figures" / f"{args.out.stem}.png"
        draw(depths, found, picture)
        setting = f"{args.size} px, L {args.levels}, width {args.width}, batch {args.batch}, RGB, fp32, {args.device}"
        atomic_text(args.out, PAGE.format(setting=setting, table=text, picture=f"figures/{picture.name}"))


PAGE = """# The flow's memory against its depth

{table}

![kept bytes against K]({picture})

{setting}; torch's saved tensors, each storage once, parameters left out. Made by `python scripts/flow_memory.py --out
docs/flow_memory.md`.

With `model.memory: reversible` a level keeps its last output; the backward pass inverts one step after another from
there, with one more evaluation of each coupling network (`flow/reversible.py`). What is left grows with the number of
levels and with the batch, not with K. The price is a third of the arithmetic: four network units a step instead of
three. `model.anchor_every` buys back exactness where an inverse drifts: each anchor is one more picture-sized tensor.
"""


if __name__ == "__main__":
    main()

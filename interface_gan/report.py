"""Metrics of edits of generated faces: target accuracy, target gain, leakage and cost, measured by a judge.

The judge classifies 8-bit images of codes that were not used to fit the boundaries. Baselines are no edit, a random
step of the same cost, and the paper's projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from data.request import AttributeEdit, Request
from interface_gan.boundary import Boundaries
from interface_gan.codes import Stats, draw_z, images_of, map_z
from interface_gan.model import Generator
from interface_gan.plan import MOVES, Plan, Samples, plan
from interface_gan.score import log_odds, read_images
from latents.roc_auc import roc_auc
from losses.quantise import to_bytes

SEED = 31  # of the evaluated codes; boundaries are fitted to codes of another seed
STRENGTHS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)  # in sigma; `effects` interpolates between them


@dataclass(frozen=True)
class Bench:
    """Codes w (N, Z) that were not used for fitting, and everything that is needed to edit and measure them.

    own (N, A): the sides of the codes according to the guide, in the order of the boundaries' names. real_std: {name:
    standard deviation of the judge's logit over real faces}.
    """

    generator: Generator
    boundaries: Boundaries
    stats: Stats
    samples: Samples
    judge: Any
    w: Tensor
    own: Tensor
    real_std: dict[str, float]

    @cached_property
    def before(self) -> Tensor:
        """The judge's logits of the codes without an edit."""
        return self.judged(self.w)

    def judged(self, w: Tensor) -> Tensor:
        """The judge's logits (N, A') for all its names."""
        return self.judge.logits(to_bytes(images_of(self.generator, self.generator.broadcast(w))))

    def step(self, edit: AttributeEdit, move: str, keep: str | Sequence[str] = "auto") -> Plan:
        """The steps of all codes for one edit."""
        return plan(
            self.w, Request((edit,)), self.boundaries, self.stats.cov, self.own, move, keep, self.samples, seed=5
        )


def side_of_logits(logits: Tensor, names: Sequence[str], classes: Sequence[str], name: str) -> Tensor:
    """Whether a classifier predicts `name`, (N,) bool: a class if it has the largest logit, an attribute if above 0."""
    if name in classes:
        return logits[:, : len(classes)].argmax(1) == list(classes).index(name)
    return logits[:, list(names).index(name)] > 0


def flips(bench: Bench, name: str, move: str, keep: str | Sequence[str] = "auto") -> dict[str, float]:
    """Edit all codes to the other side of `name` (a class: to this class). Returns target accuracy, gain and cost.

    Codes whose image already has the target, according to the judge, are left out. `no_edit` is the share of the target
    without an edit, over all codes.
    """
    judge, b = bench.judge, bench.boundaries
    edit = AttributeEdit(name, "set", 1.0, is_class=True) if name in b.classes else AttributeEdit(name, "flip")
    before = bench.before
    p = bench.step(edit, move, keep)
    after = bench.judged(bench.w + p.step)
    target = torch.ones(len(bench.w)) if edit.is_class else 1 - bench.own[:, b.names.index(name)]
    seen = [side_of_logits(logits, judge.names, judge.classes, name).float() for logits in (before, after)]
    counted = seen[0] != target
    place = judge.names.index(name)
    chance = [judge.probabilities(logits)[:, place] for logits in (before, after)]
    gain = (chance[1] - chance[0]) * (2 * target - 1)
    return {
        "target_accuracy": float((seen[1] == target)[counted].float().mean()),
        "no_edit": float((seen[0] == target).float().mean()),
        "gain": float(gain[counted].mean()),
        "cost": float(p.cost[counted].mean()),
        "faces": int(counted.sum()),
    }


def effects(bench: Bench, name: str, move: str, keep: str | Sequence[str] = "auto") -> dict[str, Any]:
    """The changes of all logits when the judge's mean logit of `name` rises by one standard deviation of real faces.

    Returns:
        `change`: {name: mean change of its logit, in standard deviations of real faces}; `leakage`: mean |change| of
        the other attributes; `cost` of the step; `dose`: its size in sigma of the reading, infinite if the largest
        step is too small.
    """
    judge = bench.judge
    before = bench.before.mean(0)
    std = torch.tensor([bench.real_std[n] for n in judge.names])
    p = bench.step(AttributeEdit(name, "step", 1.0, is_class=name in bench.boundaries.classes), move, keep)
    table = [torch.zeros(len(judge.names))]
    for strength in STRENGTHS:
        table.append((bench.judged(bench.w + strength * p.step).mean(0) - before) / std)
        if table[-1][judge.names.index(name)] >= 1:
            break
    risen = [float(row[judge.names.index(name)]) for row in table]
    doses = [0.0, *STRENGTHS[: len(table) - 1]]
    if risen[-1] < 1:
        change, dose = table[-1], float("inf")
    else:  # linear between the last two strengths
        t = (1 - risen[-2]) / (risen[-1] - risen[-2])
        change, dose = table[-2].lerp(table[-1], t), doses[-2] + t * (doses[-1] - doses[-2])
    others = [i for i, n in enumerate(judge.names) if n in judge.attributes and n != name]
    return {
        "change": dict(zip(judge.names, change.tolist(), strict=True)),
        "leakage": float(change[others].abs().mean()),
        "leakage_kept": float(change[[i for i in others if judge.names[i] in p.kept]].abs().mean()) if p.kept else None,
        "kept": p.kept,
        "dropped": p.dropped,
        "dose": dose,
        "cost": dose * float(p.cost.mean()),
    }


def agreement(guide_logits: Tensor, guide: Any, judge_logits: Tensor, judge: Any) -> dict[str, float]:
    """The share of images for which guide and judge agree, for each common attribute; `expression` for the classes."""
    found = {
        name: float(
            (
                side_of_logits(guide_logits, guide.names, guide.classes, name)
                == side_of_logits(judge_logits, judge.names, judge.classes, name)
            )
            .float()
            .mean()
        )
        for name in guide.attributes
        if name in judge.attributes
    }
    if guide.classes and guide.classes == judge.classes:
        k = len(guide.classes)
        same = guide_logits[:, :k].argmax(1) == judge_logits[:, :k].argmax(1)
        found["expression"] = float(same.float().mean())
    return found


def bench_of(editor: Any, judge: Any, num: int) -> Bench:
    """A `Bench` with `num` codes of SEED; `real_std` is measured on the run's test faces."""
    boundaries, guide = editor.boundaries("w"), editor.guide()
    dim = editor.method.cfg.model.latent_dim
    w = map_z(editor.generator, draw_z(num, dim, SEED))
    logits = read_images(guide, images_of(editor.generator, editor.generator.broadcast(w)))
    table, pairs = log_odds(logits, guide.classes)
    own, k = (table > 0).float(), len(guide.classes)
    own[:, :k] = torch.nn.functional.one_hot(logits[:, :k].argmax(1), k).float() if k else own[:, :k]
    names = [*guide.names, *pairs]
    faces = editor.split("test")
    real = torch.cat([judge.logits(to_bytes(batch["image"])) for batch in faces.once(256, "cpu")])
    spread = dict(zip(judge.names, real.std(0).tolist(), strict=True))
    own = own[:, [names.index(name) for name in boundaries.names]]
    return Bench(editor.generator, boundaries, editor.stats, editor.samples("w"), judge, w, own, spread)


def edit_metrics(editor: Any, judge: Any, names: Sequence[str], num: int) -> tuple[dict[str, Any], str]:
    """All metrics of `num` generated faces, and their table. names: of boundaries; empty: all."""
    bench, guide = bench_of(editor, judge, num), editor.guide()
    b = bench.boundaries
    chosen = [n for n in (names or [*b.attributes, *b.classes]) if n in judge.names and b.row(n) >= 0]
    images = images_of(bench.generator, bench.generator.broadcast(bench.w))
    same = agreement(read_images(guide, images), guide, bench.before, judge)
    readings = b.read(bench.w)
    before = bench.before
    found: dict[str, Any] = {"num": num, "seed": SEED, "agreement": same, "attributes": {}}
    lines = [
        "name                 AUC(judge) agree  | flips: least paper transport random | leakage: least paper | cost"
    ]
    for name in chosen:
        seen = side_of_logits(before, judge.names, judge.classes, name).float()
        row: dict[str, Any] = {"auc_judge": roc_auc(readings[:, b.names.index(name)], seen)}
        row["flip"] = {move: flips(bench, name, move) for move in MOVES}
        if name in judge.attributes:
            row["one_sd"] = {move: effects(bench, name, move) for move in ("least", "paper")}
        found["attributes"][name] = row
        flip = " ".join(f"{row['flip'][move]['target_accuracy']:9.3f}" for move in MOVES)
        leak = [row["one_sd"][m] for m in ("least", "paper")] if "one_sd" in row else []
        tail = " ".join(f"{e['leakage']:6.3f}" for e in leak) + " | " + " ".join(f"{e['cost']:5.2f}" for e in leak)
        lines.append(f"{name:<20} {row['auc_judge']:7.3f}  {same.get(name, float('nan')):5.3f}  | {flip} | {tail}")
    return found, "\n".join(lines)

"""Figures of edits of generated faces, graded by a judge: is the target reached, and what moves with it?

The judge reads 8-bit pictures of codes that no boundary was fitted to. Beside every figure stand no edit, a random step
of the same cost and the paper's projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data.request import Move, Request
from interface_gan.boundary import Boundaries
from interface_gan.codes import Stats, images_of
from interface_gan.model import Generator
from interface_gan.plan import Plan, Samples, plan

STRENGTHS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)  # of one sigma, where the dose that moves the judge is sought


@dataclass(frozen=True)
class Bench:
    """What edits of generated faces need: codes w (N, Z) that nothing was fitted to, and who reads them.

    own (N, A): the side of every code by the guide, in the order of the boundaries' names. real_std: {name: standard
    deviation of the judge's logit over real faces}.
    """

    generator: Generator
    boundaries: Boundaries
    stats: Stats
    samples: Samples
    judge: Any
    w: Tensor
    own: Tensor
    real_std: dict[str, float]

    def judged(self, w: Tensor) -> Tensor:
        """The judge's logits (N, A'), of all its names."""
        images = images_of(self.generator, self.generator.broadcast(w))
        return self.judge.logits(((images + 1) * 127.5).round().byte())

    def step(self, wish: Move, move: str, keep: str | Sequence[str] = "auto") -> Plan:
        """The step of every code towards one wish."""
        return plan(
            self.w, Request((wish,)), self.boundaries, self.stats.cov, self.own, move, keep, self.samples, seed=5
        )


def side_of_logits(logits: Tensor, names: Sequence[str], classes: Sequence[str], name: str) -> Tensor:
    """Whether a classifier sees `name`, (N,) bool: a class where it is the likeliest, an attribute above 0."""
    if name in classes:
        return logits[:, : len(classes)].argmax(1) == list(classes).index(name)
    return logits[:, list(names).index(name)] > 0


def flips(bench: Bench, name: str, move: str, keep: str | Sequence[str] = "auto") -> dict[str, float]:
    """Edit every code to the other side of `name` (a class: towards it) -> target accuracy and gain, cost.

    Codes whose picture the judge already reads as asked are left out. `untouched`: the same figure without an edit,
    over all codes.
    """
    judge, b = bench.judge, bench.boundaries
    wish = Move(name, "set", 1.0, is_class=True) if name in b.classes else Move(name, "flip")
    before = bench.judged(bench.w)
    p = bench.step(wish, move, keep)
    after = bench.judged(bench.w + p.step)
    asked = torch.ones(len(bench.w)) if wish.is_class else 1 - bench.own[:, b.names.index(name)]
    seen = [side_of_logits(logits, judge.names, judge.classes, name).float() for logits in (before, after)]
    counted = seen[0] != asked
    place = judge.names.index(name)
    chance = [judge.probabilities(logits)[:, place] for logits in (before, after)]
    gain = (chance[1] - chance[0]) * (2 * asked - 1)
    return {
        "target_accuracy": float((seen[1] == asked)[counted].float().mean()),
        "untouched": float((seen[0] == asked).float().mean()),
        "gain": float(gain[counted].mean()),
        "cost": float(p.cost[counted].mean()),
        "faces": int(counted.sum()),
    }


def effects(bench: Bench, name: str, move: str, keep: str | Sequence[str] = "auto") -> dict[str, Any]:
    """What moves when the judge's mean logit of `name` rises by one real standard deviation.

    -> `change`: {name: mean change of its logit, in real standard deviations}; `leakage`: mean |change| of the other
    attributes; `cost` of the step; `dose` in sigma of the reading, infinite where the strongest step does not reach it.
    """
    judge = bench.judge
    before = bench.judged(bench.w).mean(0)
    std = torch.tensor([bench.real_std[n] for n in judge.names])
    p = bench.step(Move(name, "step", 1.0, is_class=name in bench.boundaries.classes), move, keep)
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
    """Share of pictures in which guide and judge see the same, for every shared name; `expression` for the classes."""
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

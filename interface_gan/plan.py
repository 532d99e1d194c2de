"""A request and codes -> the step to take, in W or Z. Arithmetic on codes: no network, no file.

| move | step | source |
| --- | --- | --- |
| least | the least Mahalanobis step that moves the reading as asked and leaves the kept ones | `latents.steps` |
| paper | the normal projected off the kept ones, as long | 1907.10786, section 3.2 |
| transport | between sampled codes of both sides, taken as Gaussians | `latents.local.transport_vectors` |
| random | a random direction at the least step's cost: what any movement of this size does | baseline |

How far is one thing in every space: `+1.5` moves the reading by 1.5 of its standard deviations; `@2` to 2 of them; a
side (`=1`, `flip`) to the mean reading of the samples on that side, never back; `0.7` to that share of the way from
one side's mean to the other's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from data.request import AttributeEdit, Request
from engine import UserError
from interface_gan.boundary import Boundaries
from latents.local import transport_vectors
from latents.steps import affordable, cost, least_step

MOVES = ("least", "paper", "transport", "random")
FORMS = ("set", "amount", "flip", "step", "absolute")
LIMIT = 1.5  # `keep auto`: what one standard deviation may cost, in standard deviations
MATCH = ("Mouth_Slightly_Open", "Male")  # transport compares codes that agree on these and on the expression
PER_LATENT = 4  # codes a latent that a side needs for its covariance
MAX_EXTRAPOLATION = 2.0  # transport: how far along its step a code may go to reach its side's mean reading


@dataclass(frozen=True)
class Samples:
    """Sampled codes (M, Z) and the side each lies on by the guide, (M, A) bool in the order of the boundaries."""

    codes: Tensor
    sides: Tensor


@dataclass(frozen=True)
class Plan:
    """Step (N, Z) of each code and its cost (N,) in standard deviations of the codes; what was kept, and what was not
    because it would have cost more than the limit: {name: cost}."""

    step: Tensor
    cost: Tensor
    kept: list[str] = field(default_factory=list)
    dropped: dict[str, float] = field(default_factory=dict)


def plan(
    codes: Tensor,
    request: Request,
    boundaries: Boundaries,
    cov: Tensor,
    own: Tensor,
    move: str = "least",
    keep: str | Sequence[str] = "auto",
    samples: Samples | None = None,
    seed: int = 0,
) -> Plan:
    """The step of every code.

    codes (N, Z); cov (Z, Z) of the space's codes; own (N, A): the side that each face is on, 0 or 1, in the order of
    `boundaries.names` (NaN = by its reading). keep: auto (attributes while one sigma costs at most 1.5), none, or
    names. samples: for `transport`. seed: of `random`.
    """
    assert move in MOVES, move
    readings = boundaries.read(codes)
    own = torch.where(own.isnan(), (readings > 0).float(), own)
    edits = [leave(edit, boundaries) for edit in request.require(*FORMS, method="interface_gan")]
    step, kept, dropped = torch.zeros_like(codes), {}, {}
    for rows, faces in grouped(edits, boundaries, own):
        delta = torch.stack(
            [wanted(w, r, boundaries, readings[faces], own[faces]) for w, r in zip(edits, rows, strict=True)], 1
        )  # (n, k)
        if move == "transport":
            step[faces] = transported(codes[faces], edits, rows, boundaries, own[faces], samples)
            continue
        held, left = rows_to_keep(keep, rows, boundaries, cov)
        kept |= dict.fromkeys(boundaries.names[row] for row in held)
        dropped |= {boundaries.names[row]: price for row, price in left.items()}
        full = torch.cat([delta, delta.new_zeros(len(delta), len(held))], 1)
        try:
            step[faces] = least_step(boundaries.normal[[*rows, *held]], full, None if move == "paper" else cov)
        except ValueError as error:
            raise UserError(f"{request} with --keep {' '.join(kept)}: {error}") from None
    if move == "random":
        step = random_step(step, cov, seed)
    return Plan(step, cost(step, cov).to(codes.dtype), list(kept), dropped)


def leave(edit: AttributeEdit, boundaries: Boundaries) -> AttributeEdit:
    """An expression is left for neutral; it has no other side."""
    if edit.is_class and edit.form == "flip":
        raise UserError(f"{edit}: an expression has no other side; ask for another expression")
    if edit.is_class and edit.form == "set" and edit.value == 0:
        if "neutral" not in boundaries.names:
            raise UserError(f"{edit}: there is no neutral face to go to; ask for another expression")
        return replace(edit, name="neutral", value=1.0)
    return edit


def grouped(edits: Sequence[AttributeEdit], boundaries: Boundaries, own: Tensor) -> list[tuple[list[int], Tensor]]:
    """(rows of the boundaries that carry the edits, faces (N,) bool): an expression is reached from neutral along
    their own plane, from others along its log-odds."""
    rows = [boundaries.row(edit.name) for edit in edits]
    paired = list(rows)
    for i, edit in enumerate(edits):
        if edit.is_class and f"{edit.name}/neutral" in boundaries.pairs:
            paired[i] = boundaries.names.index(f"{edit.name}/neutral")
    everybody = torch.ones(len(own), dtype=torch.bool)
    if paired == rows or "neutral" not in boundaries.names:
        return [(rows, everybody)]
    neutral = own[:, boundaries.names.index("neutral")] == 1
    return [(r, faces) for r, faces in ((paired, neutral), (rows, ~neutral)) if faces.any()]


def wanted(edit: AttributeEdit, row: int, boundaries: Boundaries, readings: Tensor, own: Tensor) -> Tensor:
    """How far the reading is to move, (N,); readings and own (N, A)."""
    reading, sigma = readings[:, row], boundaries.sigma[row]
    without, with_ = boundaries.side_mean[row]
    if edit.form == "step":
        return torch.full_like(reading, float(edit.value)) * sigma
    if edit.form == "absolute":
        return float(edit.value) * sigma - reading
    if edit.form == "amount":
        return without + float(edit.value) * (with_ - without) - reading
    up = own[:, row] == 0 if edit.form == "flip" else torch.full_like(own[:, row], float(edit.value)) == 1
    return torch.where(up, (with_ - reading).clamp_min(0), (without - reading).clamp_max(0))


def rows_to_keep(
    keep: str | Sequence[str], moved: list[int], boundaries: Boundaries, cov: Tensor
) -> tuple[list[int], dict[int, float]]:
    """Rows that shall stay, and those that `auto` leaves out with their cost. Expressions never keep each other."""
    if keep == "none":
        return [], {}
    if keep != "auto":
        rows = [boundaries.row(name) for name in ([keep] if isinstance(keep, str) else keep)]
        return [row for row in rows if row not in moved], {}
    candidates = [r for r in map(boundaries.names.index, boundaries.attributes) if r not in moved]
    return affordable(moved, candidates, boundaries.normal, cov, LIMIT)


def random_step(step: Tensor, cov: Tensor, seed: int) -> Tensor:
    """Directions drawn from N(0, cov), each as costly as the row of `step` (N, Z) it replaces."""
    root = torch.linalg.cholesky(cov.double())
    drawn = torch.randn(step.shape, generator=torch.Generator().manual_seed(seed)).double() @ root.T
    return (drawn * (cost(step, cov) / cost(drawn, cov).clamp_min(1e-12))[:, None]).to(step.dtype)


def transported(
    codes: Tensor,
    edits: Sequence[AttributeEdit],
    rows: list[int],
    boundaries: Boundaries,
    own: Tensor,
    samples: Samples,
) -> Tensor:
    """One attribute after the other: the way across between the sampled codes of both sides that are like the face."""
    start = codes.clone()
    for edit, row in zip(edits, rows, strict=True):
        if edit.form not in ("set", "amount", "flip"):
            raise UserError(f"{edit}: transport goes from one side to the other; use --move least for steps")
        match = [boundaries.names.index(n) for n in MATCH if n in boundaries.attributes and n not in _names(edits)]
        if not any(w.is_class for w in edits):
            match = [boundaries.names.index(n) for n in boundaries.classes] + match
        key = own[:, [row, *match]]
        for value in key.unique(dim=0):
            mine = (key == value).all(1)
            start[mine] = cross(start[mine], edit, row, boundaries, int(value[0]), dict(zip(match, value[1:])), samples)
    return start - codes


def cross(
    codes: Tensor,
    edit: AttributeEdit,
    row: int,
    boundaries: Boundaries,
    side: int,
    match: dict[int, Tensor],
    samples: Samples,
) -> Tensor:
    """Codes (n, Z) of one side carried to where the edit asks; `match`: {row: 0 or 1} of what they share."""
    goal = 1 - side if edit.form == "flip" else int(edit.value > 0.5)
    share = 1.0 if edit.form != "amount" else float(edit.value if side == 0 else 1 - edit.value)
    if goal == side:
        return codes
    chosen = torch.ones(len(samples.codes), dtype=torch.bool)
    for column, value in match.items():
        if boundaries.names[column] in boundaries.classes and value == 0:
            continue
        closer = chosen & (samples.sides[:, column] == bool(value))
        counts = [(samples.sides[closer, row] == bool(s)).sum() for s in (0, 1)]
        if min(counts) >= PER_LATENT * codes.shape[1]:
            chosen = closer
    v = transport_vectors(codes, samples.codes[chosen], samples.sides[chosen, row].float(), goal)  # without -> with
    v = v if goal == 1 else -v
    normal = boundaries.normal[row]
    gap = boundaries.side_mean[row, goal] - boundaries.read(codes)[:, row]
    reach = (gap / (v @ normal)).nan_to_num(1).clamp(1, MAX_EXTRAPOLATION)
    return codes + share * reach[:, None] * v


def _names(edits: Sequence[AttributeEdit]) -> list[str]:
    return [edit.name for edit in edits]

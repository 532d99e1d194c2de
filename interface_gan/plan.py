"""The steps of an edit: from a request and codes to steps in W or Z. Functions of codes, without networks and files.

| move | step | source |
| --- | --- | --- |
| least | smallest Mahalanobis step that changes the reading as requested and keeps other readings | `latents.steps` |
| paper | the normal, projected orthogonal to the kept normals | InterFaceGAN, section 3.2 |
| transport | optimal transport between Gaussians fitted to sampled codes of both sides | `latents.local` |
| random | a random direction with the cost of the `least` step | baseline |

The reading of a code is its signed distance from the boundary. The forms of a request mean the same in every space.
`+1.5` changes the reading by 1.5 standard deviations. `@2` sets it to 2 standard deviations. `=1` and `flip` set it to
the mean reading of the samples on that side, and never move it back. `0.7` sets it between the means of both sides.
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
MAX_COST = 1.5  # `keep auto`: largest cost of changing the reading by one standard deviation
MATCH = ("Mouth_Slightly_Open", "Male")  # transport uses sampled codes that agree with the face in these
MIN_PER_LATENT = 4  # codes per latent dimension that a side needs for its covariance
MAX_EXTRAPOLATION = 2.0  # transport: largest factor on the step, to reach the side's mean reading


@dataclass(frozen=True)
class Samples:
    """Sampled codes (M, Z), and their sides according to the guide, (M, A) bool in the order of the boundaries."""

    codes: Tensor
    sides: Tensor


@dataclass(frozen=True)
class Plan:
    """Steps (N, Z) of the codes, and their costs (N,) in standard deviations of the codes.

    `kept`: attributes that do not change. `dropped`: {attribute: cost} of those that would exceed MAX_COST.
    """

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
    """Compute the steps of codes.

    Args:
        codes: (N, Z).
        cov: (Z, Z), covariance of the codes of this space.
        own: (N, A), the side of each face, 0 or 1, in the order of `boundaries.names`; NaN = use the reading.
        keep: auto (attributes as long as the cost is at most MAX_COST), none, or names.
        samples: for `transport`.
        seed: for `random`.
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
    """Replace `happy=0` by `neutral`. Raises UserError for `flip` of an expression."""
    if edit.is_class and edit.form == "flip":
        raise UserError(f"{edit}: an expression has no opposite; request another expression")
    if edit.is_class and edit.form == "set" and edit.value == 0:
        if "neutral" not in boundaries.names:
            raise UserError(f"{edit}: there is no boundary for neutral; request another expression")
        return replace(edit, name="neutral", value=1.0)
    return edit


def grouped(edits: Sequence[AttributeEdit], boundaries: Boundaries, own: Tensor) -> list[tuple[list[int], Tensor]]:
    """Groups (boundary rows of the edits, faces (N,) bool) that use the same boundaries.

    From a neutral face, an expression uses the pair boundary (such as happy/neutral). From other faces it uses the
    boundary of its log-odds.
    """
    rows = [boundaries.row(edit.name) for edit in edits]
    paired = list(rows)
    for i, edit in enumerate(edits):
        if edit.is_class and f"{edit.name}/neutral" in boundaries.pairs:
            paired[i] = boundaries.names.index(f"{edit.name}/neutral")
    if paired == rows or "neutral" not in boundaries.names:
        return [(rows, torch.ones(len(own), dtype=torch.bool))]
    neutral = own[:, boundaries.names.index("neutral")] == 1
    return [(r, faces) for r, faces in ((paired, neutral), (rows, ~neutral)) if faces.any()]


def wanted(edit: AttributeEdit, row: int, boundaries: Boundaries, readings: Tensor, own: Tensor) -> Tensor:
    """The requested change of the reading, (N,); readings and own (N, A)."""
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
    """The rows to keep, and {row: cost} of those that `auto` leaves out. Expressions are never kept."""
    if keep == "none":
        return [], {}
    if keep != "auto":
        rows = [boundaries.row(name) for name in ([keep] if isinstance(keep, str) else keep)]
        return [row for row in rows if row not in moved], {}
    candidates = [r for r in map(boundaries.names.index, boundaries.attributes) if r not in moved]
    return affordable(moved, candidates, boundaries.normal, cov, MAX_COST)


def random_step(step: Tensor, cov: Tensor, seed: int) -> Tensor:
    """Random directions from N(0, cov), scaled to the costs of `step` (N, Z)."""
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
    """Transport codes for one edit after the other, between sampled codes of both sides that agree with the face."""
    start = codes.clone()
    for edit, row in zip(edits, rows, strict=True):
        if edit.form not in ("set", "amount", "flip"):
            raise UserError(f"{edit}: --move transport cannot do a step; use --move least")
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
    """Transport codes (n, Z) of one side as the edit requests. `match`: {row: 0 or 1} of samples to use."""
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
        if min(counts) >= MIN_PER_LATENT * codes.shape[1]:
            chosen = closer
    v = transport_vectors(codes, samples.codes[chosen], samples.sides[chosen, row].float(), goal)  # without -> with
    v = v if goal == 1 else -v
    normal = boundaries.normal[row]
    gap = boundaries.side_mean[row, goal] - boundaries.read(codes)[:, row]
    reach = (gap / (v @ normal)).nan_to_num(1).clamp(1, MAX_EXTRAPOLATION)
    return codes + share * reach[:, None] * v


def _names(edits: Sequence[AttributeEdit]) -> list[str]:
    return [edit.name for edit in edits]

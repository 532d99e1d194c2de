"""Against the right answer: the same person with that expression, as the drawing or a second photo shows it."""

import math

import torch
from torch import Tensor

from evaluation.eval_data import EvalData
from evaluation.metric import Metric
from evaluation.pictures import CAP

BROWS, EYES, MOUTH = list(range(17, 27)), list(range(36, 48)), list(range(48, 68))
GROW = 0.35  # of the distance between the eyes, on every side of a box
# What a request is about, where it is not the whole expression.
PARTS = {
    "Smiling": [MOUTH],
    "Mouth_Slightly_Open": [MOUTH],
    "Big_Lips": [MOUTH],
    "Wearing_Lipstick": [MOUTH],
    "Mustache": [MOUTH],
    "Goatee": [MOUTH],
    "No_Beard": [MOUTH],
    "Eyeglasses": [BROWS + EYES],
    "Narrow_Eyes": [EYES],
    "Bags_Under_Eyes": [EYES],
    "Arched_Eyebrows": [BROWS],
    "Bushy_Eyebrows": [BROWS],
}
# Of a face in the middle of the picture, where no judge finds landmarks: left, top, right, bottom in [-1, 1].
DEFAULT_BOXES = ((-0.7, -0.5, 0.7, 0.1), (-0.45, 0.25, 0.45, 0.85))


def boxes(points: Tensor, groups: list[list[int]], size: int) -> Tensor:
    """(N, S, S) bool: pixels inside a box around any group of the points (N, 68, 2), grown by 0.35 eye distances."""
    grow = GROW * (points[:, 42:48].mean(1) - points[:, 36:42].mean(1)).norm(dim=1)
    centres = (torch.arange(size) + 0.5) * 2 / size - 1
    mask = torch.zeros(len(points), size, size, dtype=torch.bool)
    for group in groups:
        low, high = points[:, group].amin(1) - grow[:, None], points[:, group].amax(1) + grow[:, None]
        in_x = (centres >= low[:, :1]) & (centres <= high[:, :1])
        in_y = (centres >= low[:, 1:]) & (centres <= high[:, 1:])
        mask |= in_y[:, :, None] & in_x[:, None, :]
    return mask


def usual_boxes(n: int, size: int) -> Tensor:
    """The same for faces without landmarks."""
    centres = (torch.arange(size) + 0.5) * 2 / size - 1
    mask = torch.zeros(size, size, dtype=torch.bool)
    for left, top, right, bottom in DEFAULT_BOXES:
        mask |= ((centres >= top) & (centres <= bottom))[:, None] & ((centres >= left) & (centres <= right))
    return mask.expand(n, -1, -1)


def masked_psnr(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """(N,) dB over the pixels of mask (N, S, S), at most 60; NaN where a mask is empty."""
    square = (a.double() - b.double()).square().mean(1)
    mse = (square * mask).sum((1, 2)) / mask.sum((1, 2))
    return (10 * torch.log10(255.0**2 / mse.clamp_min(1e-9))).clamp_max(CAP)


def region(eval_data: EvalData, rows: Tensor) -> tuple[Tensor, str]:
    """Where each request should act, from landmarks that a judge finds on source and truth; and how it was found."""
    e, size = eval_data.export, eval_data.export.images.shape[-1]
    predictions = next((j for j in eval_data.judges_with("landmarks") if j.fake["landmarks"].shape[1] == 68), None)
    if predictions is None:
        return usual_boxes(len(rows), size), "boxes of a usual face"
    mask = torch.zeros(len(rows), size, size, dtype=torch.bool)
    for r, i in enumerate(rows.tolist()):
        groups = [g for name in e.rows[i].requests() for g in PARTS.get(name, [BROWS, EYES, MOUTH])]
        for place in (e.source[i], e.truth[i]):
            mask[r] |= boxes(predictions.fake["landmarks"][place][None], groups, size)[0]
    return mask, f"landmarks of {predictions.name}"


def per_box(eval_data: EvalData, rows: Tensor) -> dict[str, float]:
    """Mean PSNR of edit and truth in the boxes of brows, eyes and mouth; empty where no judge finds landmarks."""
    e, size = eval_data.export, eval_data.export.images.shape[-1]
    predictions = next((j for j in eval_data.judges_with("landmarks") if j.fake["landmarks"].shape[1] == 68), None)
    if predictions is None:
        return {}
    points, found = predictions.fake["landmarks"], {}
    for name, group in (("brows", BROWS), ("eyes", EYES), ("mouth", MOUTH)):
        mask = boxes(points[e.source[rows]], [group], size) | boxes(points[e.truth[rows]], [group], size)
        found[name] = float(masked_psnr(e.images[e.file[rows]], e.images[e.truth[rows]], mask).nanmean())
    return found


def metrics(eval_data: EvalData) -> list[Metric]:
    """PSNR to the truth where the request acts and elsewhere; the share of the way that an edit goes (gap closed)."""
    e = eval_data.export
    rows = e.main("edit") if eval_data.has("edit") else torch.empty(0, dtype=torch.long)
    rows = rows[(e.truth[rows] >= 0) & (e.source[rows] >= 0)]
    # A face that shows the target already has no way to go.
    differs = (e.images[e.truth[rows]] != e.images[e.source[rows]]).flatten(1).any(1)
    rows = rows[differs]
    if not len(rows):
        return []
    mask, how = region(eval_data, rows)
    truth = e.images[e.truth[rows]]
    inside = lambda places: masked_psnr(e.images[places], truth, mask)  # noqa: E731
    outside = lambda places: masked_psnr(e.images[places], truth, ~mask)  # noqa: E731
    files, sources, bases, best = e.file[rows], e.source[rows], e.base[rows], e.truth_recon[rows]
    have = best >= 0
    beside = [{"no edit": float(f(sources).nanmean())} for f in (inside, outside)]
    if (bases != sources).any():
        for f, b in zip((inside, outside), beside, strict=True):
            b["base"] = float(f(bases).nanmean())
    if have.all():
        for f, b in zip((inside, outside), beside, strict=True):
            b["reconstructed truth"] = float(f(best).nanmean())
    per = {t: float(inside(files)[m].nanmean()) for t, m in _targets(eval_data, rows).items()}
    found = [
        Metric(
            "PSNR inside",
            f"PSNR to the truth in dB where the request acts ({how})",
            float(inside(files).nanmean()),
            "high",
            len(rows),
            beside[0],
            detail={"per_target": per, "per_box": per_box(eval_data, rows)},
        ),
        Metric(
            "PSNR outside",
            f"PSNR to the truth in dB elsewhere ({how})",
            float(outside(files).nanmean()),
            "high",
            len(rows),
            beside[1],
        ),
    ]
    return found + gap(
        eval_data, rows[have], inside(files)[have], inside(bases)[have], inside(best.clamp_min(0))[have], how
    )


def _targets(eval_data: EvalData, rows: Tensor) -> dict[str, Tensor]:
    targets = [eval_data.export.rows[i].target for i in rows.tolist()]
    return {t: torch.tensor([x == t for x in targets]) for t in sorted(set(targets))}


def gap(eval_data: EvalData, rows: Tensor, edit: Tensor, base: Tensor, best: Tensor, how: str) -> list[Metric]:
    """(edit - base) / (reconstruction of the truth - base), of mean PSNRs inside; 1 = all that the model can paint."""
    room = float((best - base).nanmean()) if len(rows) else math.nan
    if not len(rows) or abs(room) < 0.05:
        return []
    per = {
        t: float((edit - base)[m].nanmean() / (best - base)[m].nanmean())
        for t, m in _targets(eval_data, rows).items()
        if abs(float((best - base)[m].nanmean())) >= 0.05
    }
    name = f"gap closed (of {room:.2f} dB between what the edit starts from and the reconstructed truth, {how})"
    value = float((edit - base).nanmean()) / room
    return [
        Metric(
            "gap closed",
            name,
            value,
            "high",
            len(rows),
            {"base": 0.0, "reconstructed truth": 1.0},
            detail={"per_target": per},
        )
    ]

"""Edits against the ground truth: PSNR inside and outside the edited area, and gap closed."""

import math

import torch
from torch import Tensor

from evaluation.eval_data import EvalData
from evaluation.metric import Metric
from evaluation.pictures import MAX_PSNR
from losses.image_metrics import psnr
from losses.pixels import box_mask

BROWS, EYES, MOUTH = list(range(17, 27)), list(range(36, 48)), list(range(48, 68))
BOX_MARGIN = 0.35  # on every side of a box; unit: distance of the eyes
# The landmarks of the edited area per attribute; other targets change brows, eyes and mouth.
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
# Edited areas of a centred face, without a judge of landmarks: left, top, right, bottom in [-1, 1].
DEFAULT_BOXES = ((-0.7, -0.5, 0.7, 0.1), (-0.45, 0.25, 0.45, 0.85))


def boxes(points: Tensor, groups: list[list[int]], size: int) -> Tensor:
    """Mask (N, S, S) bool: boxes around groups of the points (N, 68, 2), with a margin of 0.35 eye distances."""
    margin = BOX_MARGIN * (points[:, 42:48].mean(1) - points[:, 36:42].mean(1)).norm(dim=1)[:, None]
    ends = [torch.cat([points[:, g].amin(1) - margin, points[:, g].amax(1) + margin], 1) for g in groups]  # (N, 4)
    return box_mask(torch.stack(ends, 1), size)[:, 0].bool()


def default_boxes(n: int, size: int) -> Tensor:
    """Mask (n, S, S) bool of DEFAULT_BOXES."""
    return box_mask(torch.tensor([DEFAULT_BOXES]), size)[:, 0].bool().expand(n, -1, -1)


def masked_psnr(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """(N,) PSNR in dB, at most 60, of a and b (N, C, S, S) uint8 in mask (N, S, S); NaN for an empty mask."""
    return psnr(a.double(), b.double(), 255.0, mask).clamp_max(MAX_PSNR)


def region(eval_data: EvalData, rows: Tensor) -> tuple[Tensor, str]:
    """Mask (n, S, S) of the area that each edit should change, and a description.

    The boxes surround the landmarks that a judge predicts for source and ground truth.
    """
    e, size = eval_data.export, eval_data.export.images.shape[-1]
    predictions = next((j for j in eval_data.judges_with("landmarks") if j.fake["landmarks"].shape[1] == 68), None)
    if predictions is None:
        return default_boxes(len(rows), size), "default boxes"
    mask = torch.zeros(len(rows), size, size, dtype=torch.bool)
    for r, i in enumerate(rows.tolist()):
        groups = [g for name in e.rows[i].requests() for g in PARTS.get(name, [BROWS, EYES, MOUTH])]
        for place in (e.source[i], e.truth[i]):
            mask[r] |= boxes(predictions.fake["landmarks"][place][None], groups, size)[0]
    return mask, f"landmarks of {predictions.name}"


def psnr_per_box(eval_data: EvalData, rows: Tensor) -> dict[str, float]:
    """Mean PSNR in dB of edit and ground truth in the boxes of brows, eyes and mouth; empty without landmarks."""
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
    """PSNR to the ground truth inside and outside the edited area, and gap closed."""
    e = eval_data.export
    rows = e.at_full_strength("edit") if eval_data.has("edit") else torch.empty(0, dtype=torch.long)
    rows = rows[(e.truth[rows] >= 0) & (e.source[rows] >= 0)]
    # A face that already has the target does not need an edit.
    differs = (e.images[e.truth[rows]] != e.images[e.source[rows]]).flatten(1).any(1)
    rows = rows[differs]
    if not len(rows):
        return []
    mask, area = region(eval_data, rows)
    truth = e.images[e.truth[rows]]
    inside = lambda places: masked_psnr(e.images[places], truth, mask)  # noqa: E731
    outside = lambda places: masked_psnr(e.images[places], truth, ~mask)  # noqa: E731
    files, sources, bases, best = e.file[rows], e.source[rows], e.base[rows], e.truth_recon[rows]
    known = best >= 0
    references = [{"no edit": float(f(sources).nanmean())} for f in (inside, outside)]
    if (bases != sources).any():
        for f, b in zip((inside, outside), references, strict=True):
            b["base"] = float(f(bases).nanmean())
    if known.all():
        for f, b in zip((inside, outside), references, strict=True):
            b["reconstructed ground truth"] = float(f(best).nanmean())
    per = {t: float(inside(files)[m].nanmean()) for t, m in _targets(eval_data, rows).items()}
    found = [
        Metric(
            "PSNR inside",
            f"PSNR inside (dB to the ground truth in the edited area, {area})",
            float(inside(files).nanmean()),
            "high",
            len(rows),
            references[0],
            detail={"per_target": per, "per_box": psnr_per_box(eval_data, rows)},
        ),
        Metric(
            "PSNR outside",
            f"PSNR outside (dB to the ground truth outside the edited area, {area})",
            float(outside(files).nanmean()),
            "high",
            len(rows),
            references[1],
        ),
    ]
    return found + gap(
        eval_data, rows[known], inside(files)[known], inside(bases)[known], inside(best.clamp_min(0))[known], area
    )


def _targets(eval_data: EvalData, rows: Tensor) -> dict[str, Tensor]:
    targets = [eval_data.export.rows[i].target for i in rows.tolist()]
    return {t: torch.tensor([x == t for x in targets]) for t in sorted(set(targets))}


def gap(eval_data: EvalData, rows: Tensor, edit: Tensor, base: Tensor, best: Tensor, area: str) -> list[Metric]:
    """Gap closed: (edit - base) / (reconstructed ground truth - base), of mean PSNR inside.

    0: the edit does not improve on its base. 1: it is as near to the ground truth as the reconstruction of it.
    """
    total = float((best - base).nanmean()) if len(rows) else math.nan
    if not len(rows) or abs(total) < 0.05:
        return []
    per = {
        t: float((edit - base)[m].nanmean() / (best - base)[m].nanmean())
        for t, m in _targets(eval_data, rows).items()
        if abs(float((best - base)[m].nanmean())) >= 0.05
    }
    name = f"gap closed (of {total:.2f} dB between base and reconstructed ground truth, {area})"
    value = float((edit - base).nanmean()) / total
    return [
        Metric(
            "gap closed",
            name,
            value,
            "high",
            len(rows),
            {"base": 0.0, "reconstructed ground truth": 1.0},
            detail={"per_target": per},
        )
    ]

"""Identity similarity of edits and reconstructions to their sources."""

import torch
from torch import Tensor

from evaluation.eval_data import EvalData, Predictions
from evaluation.metric import Metric
from evaluation.pictures import ssim
from evaluation.verification import pair_cosines, threshold, verification


def metrics(eval_data: EvalData) -> list[Metric]:
    """Cosine and verification rate by judges of identity; without such a judge, SSIM to the source."""
    found: list[Metric] = []
    judges = list(eval_data.judges_with("identity"))
    for kind in ("edit", "reconstruction"):
        rows = eval_data.export.at_full_strength(kind) if eval_data.has(kind) else torch.empty(0, dtype=torch.long)
        rows = rows[eval_data.export.source[rows] >= 0]
        if not len(rows):
            continue
        for predictions in judges:
            found += by_embedding(eval_data, predictions, kind, rows)
        if not judges:
            value = ssim(
                eval_data.export.images[eval_data.export.file[rows]],
                eval_data.export.images[eval_data.export.source[rows]],
            )
            name = f"SSIM to the source ({kind}; no judge of identity was given)"
            found.append(Metric(similarity_key(kind), name, float(value.mean()), "high", len(rows), {"no edit": 1.0}))
    return found


def by_embedding(eval_data: EvalData, predictions: Predictions, kind: str, rows: Tensor) -> list[Metric]:
    """Mean cosine to the source, and the share above the threshold that 1 % of the impostor pairs exceed."""
    e, vectors = eval_data.export, predictions.fake["features"].double()
    cosine = (vectors[e.file[rows]] * vectors[e.source[rows]]).sum(1)
    references = {"no edit": 1.0}
    truths = e.truth[rows]
    if (truths >= 0).all():
        references["ground truth"] = float((vectors[truths] * vectors[e.source[rows]]).sum(1).mean())
    name = f"identity similarity (cosine of {kind} and source, judge {predictions.name})"
    found = [Metric(similarity_key(kind), name, float(cosine.mean()), "high", len(rows), references, predictions.name)]
    if not (eval_data.real.identity >= 0).any():
        return found
    pairs = verification(predictions.real["features"], eval_data.real.identity)
    references |= {"genuine pairs": pairs["genuine"], "impostor pairs": pairs["impostor"]}
    _, impostor = pair_cosines(predictions.real["features"], eval_data.real.identity)
    if len(impostor):
        limit = threshold(impostor)
        name = f"verification rate ({kind} and source, false acceptance rate 0.01, judge {predictions.name})"
        rate = float((cosine > limit).double().mean())
        found.append(
            Metric(
                f"{kind} verification rate",
                name,
                rate,
                "high",
                len(rows),
                {"real": pairs["rate"], "no edit": 1.0},
                predictions.name,
            )
        )
    return found


def similarity_key(kind: str) -> str:
    """The key of the metric for a kind of images."""
    return "identity similarity" if kind == "edit" else f"{kind} identity similarity"

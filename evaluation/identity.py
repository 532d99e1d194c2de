"""Is it still the same person?"""

import torch
from torch import Tensor

from evaluation.eval_data import EvalData, Predictions
from evaluation.metric import Metric
from evaluation.pictures import ssim
from evaluation.verification import pair_cosines, threshold, verification


def metrics(eval_data: EvalData) -> list[Metric]:
    """Cosine and verification rate of edits and reconstructions; SSIM to the source where no judge knows persons."""
    found: list[Metric] = []
    judges = list(eval_data.judges_with("identity"))
    for kind in ("edit", "reconstruction"):
        rows = eval_data.export.main(kind) if eval_data.has(kind) else torch.empty(0, dtype=torch.long)
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
            name = f"SSIM to the source ({kind}, no judge of persons was given)"
            found.append(Metric(similarity_key(kind), name, float(value.mean()), "high", len(rows), {"no edit": 1.0}))
    return found


def by_embedding(eval_data: EvalData, predictions: Predictions, kind: str, rows: Tensor) -> list[Metric]:
    """Mean cosine to the source and share above the threshold that one impostor pair in 100 exceeds."""
    e, vectors = eval_data.export, predictions.fake["features"].double()
    cosine = (vectors[e.file[rows]] * vectors[e.source[rows]]).sum(1)
    beside, detail = {"no edit": 1.0}, {}
    truths = e.truth[rows]
    if (truths >= 0).all():
        beside["ground truth"] = float((vectors[truths] * vectors[e.source[rows]]).sum(1).mean())
    name = f"identity (cosine of {kind} and source, judge {predictions.name})"
    found = [
        Metric(similarity_key(kind), name, float(cosine.mean()), "high", len(rows), beside, predictions.name, detail)
    ]
    if not (eval_data.real.identity >= 0).any():
        return found
    pairs = verification(predictions.real["features"], eval_data.real.identity)
    beside |= {"one person (real)": pairs["genuine"], "two persons (real)": pairs["impostor"]}
    _, impostor = pair_cosines(predictions.real["features"], eval_data.real.identity)
    if len(impostor):
        limit = threshold(impostor)
        about = f"{kind} accepted as the source's person at one false acceptance in 100, judge {predictions.name}"
        name = f"verified ({about})"
        rate = float((cosine > limit).double().mean())
        found.append(
            Metric(
                f"{kind} verified",
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
    """The figure's key for a kind of images."""
    return "identity similarity" if kind == "edit" else f"{kind} identity similarity"

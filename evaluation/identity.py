"""Is it still the same person?"""

import torch
from torch import Tensor

from evaluation.case import Case, Judged
from evaluation.figure import Figure
from evaluation.pictures import ssim
from evaluation.verification import pair_cosines, threshold, verification


def figures(case: Case) -> list[Figure]:
    """Cosine and verification rate of edits and reconstructions; SSIM to the source where no judge knows persons."""
    found: list[Figure] = []
    judges = list(case.judges_with("identity"))
    for kind in ("edit", "reconstruction"):
        rows = case.export.main(kind) if case.has(kind) else torch.empty(0, dtype=torch.long)
        rows = rows[case.export.source[rows] >= 0]
        if not len(rows):
            continue
        for judged in judges:
            found += by_embedding(case, judged, kind, rows)
        if not judges:
            value = ssim(case.export.images[case.export.file[rows]], case.export.images[case.export.source[rows]])
            name = f"SSIM to the source ({kind}, no judge of persons was given)"
            found.append(Figure(similarity_key(kind), name, float(value.mean()), "high", len(rows), {"no edit": 1.0}))
    return found


def by_embedding(case: Case, judged: Judged, kind: str, rows: Tensor) -> list[Figure]:
    """Mean cosine to the source and share above the threshold that one impostor pair in 100 exceeds."""
    e, vectors = case.export, judged.fake["features"].double()
    cosine = (vectors[e.file[rows]] * vectors[e.source[rows]]).sum(1)
    beside, detail = {"no edit": 1.0}, {}
    truths = e.truth[rows]
    if (truths >= 0).all():
        beside["ground truth"] = float((vectors[truths] * vectors[e.source[rows]]).sum(1).mean())
    name = f"identity (cosine of {kind} and source, judge {judged.name})"
    found = [Figure(similarity_key(kind), name, float(cosine.mean()), "high", len(rows), beside, judged.name, detail)]
    if not (case.real.identity >= 0).any():
        return found
    pairs = verification(judged.real["features"], case.real.identity)
    beside |= {"one person (real)": pairs["genuine"], "two persons (real)": pairs["impostor"]}
    _, impostor = pair_cosines(judged.real["features"], case.real.identity)
    if len(impostor):
        limit = threshold(impostor)
        name = f"verified ({kind} accepted as the source's person at one false acceptance in 100, judge {judged.name})"
        rate = float((cosine > limit).double().mean())
        found.append(
            Figure(
                f"{kind} verified",
                name,
                rate,
                "high",
                len(rows),
                {"real": pairs["rate"], "no edit": 1.0},
                judged.name,
            )
        )
    return found


def similarity_key(kind: str) -> str:
    """The figure's key for a kind of images."""
    return "identity similarity" if kind == "edit" else f"{kind} identity similarity"

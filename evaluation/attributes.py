"""Were the requested bits set, and did the others stay?"""

import math

import torch
from torch import Tensor

from evaluation.case import Case, Judged
from evaluation.figure import Figure

LEAST = 5  # rows of one attribute; fewer say nothing


def requested_bits(case: Case, rows: Tensor, judged: Judged) -> Tensor:
    """(n, A) in {0, 1}, NaN where a row asks for nothing of that attribute."""
    bits = torch.full((len(rows), len(judged.attributes)), torch.nan)
    for r, i in enumerate(rows.tolist()):
        for name, value in case.export.rows[i].requests().items():
            if value and name in judged.attributes:
                bits[r, judged.attributes.index(name)] = float(value)
    return bits


def figures(case: Case) -> list[Figure]:
    """Samples against their requests; success and leakage of edits; retention of reconstructions."""
    found: list[Figure] = []
    for judged in case.judges_with("attributes"):
        k = len(judged.classes)
        if case.has("sample"):
            rows = case.export.main("sample")
            found += samples(case, judged, rows, requested_bits(case, rows, judged), k)
        if case.has("edit"):
            rows = case.export.main("edit")
            found += edits(case, judged, rows, requested_bits(case, rows, judged), k)
        if case.has("reconstruction"):
            found += retention(case, judged, k)
    return found


def agreement(logits: Tensor, bits: Tensor) -> tuple[Tensor, float]:
    """Share of requested bits that are read, per attribute (NaN: never asked for), and share of rows with all right."""
    known = ~bits.isnan()
    right = ((logits > 0) == (bits > 0.5)) & known
    return right.sum(0).double() / known.sum(0), float((right | ~known).all(1).double().mean())


def attr_l2(probabilities: Tensor, bits: Tensor) -> float:
    """Mean over images of the 2-norm of p - request over the requested bits."""
    return float((probabilities - bits).nan_to_num().double().norm(dim=1).mean())


def samples(case: Case, judged: Judged, rows: Tensor, bits: Tensor, k: int) -> list[Figure]:
    """Accuracy, worst attribute, exact match and attr-L2; beside them real faces, shuffled requests, the majority."""
    asked = ~bits.isnan().all(1)
    rows, bits = rows[asked], bits[asked]
    if not len(rows):
        return []
    logits, p = (
        judged.fake["logits"][case.export.file[rows], k:],
        judged.probabilities("fake")[case.export.file[rows], k:],
    )
    each, exact = agreement(logits, bits)
    shuffled = bits[torch.randperm(len(bits), generator=torch.Generator().manual_seed(0))]
    chance, chance_exact = agreement(logits, shuffled)
    share = bits.nanmean(0)
    majority = torch.maximum(share, 1 - share)
    beside = [{"shuffled": float(chance.nanmean()), "majority": float(majority.nanmean())}, {"shuffled": chance_exact}]
    beside.append({"shuffled": attr_l2(p, shuffled)})
    known = judged.real_attr(case)
    known = torch.where(bits.isnan().all(0), torch.nan, known)
    if (~known.isnan()).any():
        real_each, real_exact = agreement(judged.real["logits"][:, k:], known)
        real_l2 = attr_l2(judged.probabilities("real")[:, k:], known)
        beside = [
            {"real": v} | b for v, b in zip((float(real_each.nanmean()), real_exact, real_l2), beside, strict=True)
        ]
    per = {n: float(v) for n, v in zip(judged.attributes, each, strict=True) if not math.isnan(v)}
    say = f"requested bits that the judge {judged.name} reads"
    return [
        Figure(
            "attribute accuracy",
            f"sample attribute accuracy ({say}, mean over {len(per)} attributes)",
            float(each.nanmean()),
            "high",
            len(rows),
            beside[0],
            judged.name,
            {"per_attribute": per, "worst": min(per.values())},
        ),
        Figure("exact match", f"exact match (all {say})", exact, "high", len(rows), beside[1], judged.name),
        Figure(
            "attr-L2",
            f"attr-L2 (mean norm of p - request, judge {judged.name})",
            attr_l2(p, bits),
            "low",
            len(rows),
            beside[2],
            judged.name,
        ),
    ]


def edits(case: Case, judged: Judged, rows: Tensor, bits: Tensor, k: int) -> list[Figure]:
    """Success per attribute among sources that the judge reads on the other side; leakage against the base."""
    export = case.export
    sources, bases = export.source[rows], export.base[rows]
    if (sources < 0).any() or not (~bits.isnan()).any() and not any(export.rows[i].target for i in rows.tolist()):
        return []
    fake, source = judged.fake["logits"][export.file[rows], k:], judged.fake["logits"][sources, k:]
    flips = ~bits.isnan() & ((source > 0) != (bits > 0.5))
    per, base_per = {}, {}
    for a, name in enumerate(judged.attributes):
        turned = flips[:, a]
        if turned.sum() >= LEAST:
            right = (fake[turned, a] > 0) == (bits[turned, a] > 0.5)
            start = judged.fake["logits"][bases[turned], k + a] > 0
            per[name] = float(right.double().mean())
            base_per[name] = float((start == (bits[turned, a] > 0.5)).double().mean())
    found = []
    if per:
        beside = {"no edit": 0.0, "base": sum(base_per.values()) / len(base_per)} | real_auc(judged)
        name = f"attribute success (requested bit flipped, mean over {len(per)} attributes, judge {judged.name})"
        value = sum(per.values()) / len(per)
        found.append(
            Figure(
                "attribute success", name, value, "high", int(flips.sum()), beside, judged.name, {"per_attribute": per}
            )
        )
    return found + leakage(case, judged, rows, bits, k)


def real_auc(judged: Judged) -> dict[str, float]:
    """The judge's mean area under the curve on real test faces, from its own grade."""
    auc = judged.grade.get("test", {}).get("attributes", {}).get("auc")
    return {"real AUC": auc} if auc is not None else {}


def leakage(case: Case, judged: Judged, rows: Tensor, bits: Tensor, k: int) -> list[Figure]:
    """Mean |change| of attributes that nobody asked for: in probability, and as logits in their real deviation."""
    export = case.export
    bases, truths, sources = export.base[rows], export.truth[rows], export.source[rows]
    others = bits.isnan()
    p, logits = judged.probabilities("fake")[:, k:], judged.fake["logits"][:, k:]
    spread = judged.real["logits"][:, k:].std(0).clamp_min(1e-6)

    def moved(values: Tensor, after: Tensor, before: Tensor) -> tuple[float, Tensor]:
        change = torch.where(others, (values[after] - values[before]).abs(), torch.nan).double()
        return float(change.nanmean()), change.nanmean(0)

    value, each = moved(p, export.file[rows], bases)
    deep, _ = moved(logits / spread, export.file[rows], bases)
    beside, beside_deep = {"no edit": 0.0}, {"no edit": 0.0}
    if (truths >= 0).all():
        beside["ground truth"], beside_deep["ground truth"] = (
            moved(p, truths, sources)[0],
            moved(logits / spread, truths, sources)[0],
        )
    beside["base to source"] = moved(p, bases, sources)[0]
    per = {n: float(v) for n, v in zip(judged.attributes, each, strict=True) if not math.isnan(v)}
    start = "against what the edit starts from"
    return [
        Figure(
            "leakage",
            f"leakage (mean |change| of other attributes' probability, {start}, judge {judged.name})",
            value,
            "low",
            len(rows),
            beside,
            judged.name,
            {"per_attribute": per},
        ),
        Figure(
            "leakage in sd",
            f"leakage (logits, in real standard deviations, {start}, judge {judged.name})",
            deep,
            "low",
            len(rows),
            beside_deep,
            judged.name,
        ),
    ]


def retention(case: Case, judged: Judged, k: int) -> list[Figure]:
    """Accuracy on reconstructions against the sources' true bits (where unknown: as read on the source)."""
    rows = case.export.main("reconstruction")
    rows = rows[case.export.source[rows] >= 0]
    if not len(rows):
        return []
    logits, sources = judged.fake["logits"][:, k:], case.export.source[rows]
    bits = case.source_attr(judged, rows)
    true = bool((~bits.isnan()).any())
    bits = bits if true else (logits[sources] > 0).float()
    (each, _), (on_source, _) = agreement(logits[case.export.file[rows]], bits), agreement(logits[sources], bits)
    per = {n: float(v) for n, v in zip(judged.attributes, each, strict=True) if not math.isnan(v)}
    ratio = {n: float(v / s) for n, v, s in zip(judged.attributes, each, on_source, strict=True) if s > 0}
    against = "the sources' labels" if true else "what it reads on the sources"
    name = (
        f"attributes retained (reconstructions against {against}, mean over {len(per)} attributes, judge {judged.name})"
    )
    beside = {"source": float(on_source.nanmean())}
    detail = {"per_attribute": per, "over_source": ratio}
    return [Figure("attributes retained", name, float(each.nanmean()), "high", len(rows), beside, judged.name, detail)]

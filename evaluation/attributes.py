"""Were the requested bits set, and did the others stay?"""

import math

import torch
from torch import Tensor

from evaluation.eval_data import EvalData, Predictions
from evaluation.metric import Metric

LEAST = 5  # rows of one attribute; fewer say nothing


def requested_bits(eval_data: EvalData, rows: Tensor, predictions: Predictions) -> Tensor:
    """(n, A) in {0, 1}, NaN where a row asks for nothing of that attribute."""
    bits = torch.full((len(rows), len(predictions.attributes)), torch.nan)
    for r, i in enumerate(rows.tolist()):
        for name, value in eval_data.export.rows[i].requests().items():
            if value and name in predictions.attributes:
                bits[r, predictions.attributes.index(name)] = float(value)
    return bits


def metrics(eval_data: EvalData) -> list[Metric]:
    """Samples against their requests; success and leakage of edits; retention of reconstructions."""
    found: list[Metric] = []
    for predictions in eval_data.judges_with("attributes"):
        k = len(predictions.classes)
        if eval_data.has("sample"):
            rows = eval_data.export.main("sample")
            found += samples(eval_data, predictions, rows, requested_bits(eval_data, rows, predictions), k)
        if eval_data.has("edit"):
            rows = eval_data.export.main("edit")
            found += edits(eval_data, predictions, rows, requested_bits(eval_data, rows, predictions), k)
        if eval_data.has("reconstruction"):
            found += retention(eval_data, predictions, k)
    return found


def agreement(logits: Tensor, bits: Tensor) -> tuple[Tensor, float]:
    """Share of requested bits that are read, per attribute (NaN: never asked for), and share of rows with all right."""
    known = ~bits.isnan()
    right = ((logits > 0) == (bits > 0.5)) & known
    return right.sum(0).double() / known.sum(0), float((right | ~known).all(1).double().mean())


def attr_l2(probabilities: Tensor, bits: Tensor) -> float:
    """Mean over images of the 2-norm of p - request over the requested bits."""
    return float((probabilities - bits).nan_to_num().double().norm(dim=1).mean())


def samples(eval_data: EvalData, predictions: Predictions, rows: Tensor, bits: Tensor, k: int) -> list[Metric]:
    """Accuracy, worst attribute, exact match and attr-L2; beside them real faces, shuffled requests, the majority."""
    asked = ~bits.isnan().all(1)
    rows, bits = rows[asked], bits[asked]
    if not len(rows):
        return []
    logits, p = (
        predictions.fake["logits"][eval_data.export.file[rows], k:],
        predictions.probabilities("fake")[eval_data.export.file[rows], k:],
    )
    each, exact = agreement(logits, bits)
    shuffled = bits[torch.randperm(len(bits), generator=torch.Generator().manual_seed(0))]
    chance, chance_exact = agreement(logits, shuffled)
    share = bits.nanmean(0)
    majority = torch.maximum(share, 1 - share)
    beside = [{"shuffled": float(chance.nanmean()), "majority": float(majority.nanmean())}, {"shuffled": chance_exact}]
    beside.append({"shuffled": attr_l2(p, shuffled)})
    known = predictions.real_attr(eval_data)
    known = torch.where(bits.isnan().all(0), torch.nan, known)
    if (~known.isnan()).any():
        real_each, real_exact = agreement(predictions.real["logits"][:, k:], known)
        real_l2 = attr_l2(predictions.probabilities("real")[:, k:], known)
        beside = [
            {"real": v} | b for v, b in zip((float(real_each.nanmean()), real_exact, real_l2), beside, strict=True)
        ]
    per = {n: float(v) for n, v in zip(predictions.attributes, each, strict=True) if not math.isnan(v)}
    say = f"requested bits that the judge {predictions.name} reads"
    return [
        Metric(
            "attribute accuracy",
            f"sample attribute accuracy ({say}, mean over {len(per)} attributes)",
            float(each.nanmean()),
            "high",
            len(rows),
            beside[0],
            predictions.name,
            {"per_attribute": per, "worst": min(per.values())},
        ),
        Metric("exact match", f"exact match (all {say})", exact, "high", len(rows), beside[1], predictions.name),
        Metric(
            "attr-L2",
            f"attr-L2 (mean norm of p - request, judge {predictions.name})",
            attr_l2(p, bits),
            "low",
            len(rows),
            beside[2],
            predictions.name,
        ),
    ]


def edits(eval_data: EvalData, predictions: Predictions, rows: Tensor, bits: Tensor, k: int) -> list[Metric]:
    """Success per attribute among sources that the judge reads on the other side; leakage against the base."""
    export = eval_data.export
    sources, bases = export.source[rows], export.base[rows]
    if (sources < 0).any() or not (~bits.isnan()).any() and not any(export.rows[i].target for i in rows.tolist()):
        return []
    fake, source = predictions.fake["logits"][export.file[rows], k:], predictions.fake["logits"][sources, k:]
    flips = ~bits.isnan() & ((source > 0) != (bits > 0.5))
    per, base_per = {}, {}
    for a, name in enumerate(predictions.attributes):
        turned = flips[:, a]
        if turned.sum() >= LEAST:
            right = (fake[turned, a] > 0) == (bits[turned, a] > 0.5)
            start = predictions.fake["logits"][bases[turned], k + a] > 0
            per[name] = float(right.double().mean())
            base_per[name] = float((start == (bits[turned, a] > 0.5)).double().mean())
    found = []
    if per:
        beside = {"no edit": 0.0, "base": sum(base_per.values()) / len(base_per)} | real_auc(predictions)
        name = f"attribute success (requested bit flipped, mean over {len(per)} attributes, judge {predictions.name})"
        value = sum(per.values()) / len(per)
        found.append(
            Metric(
                "attribute success",
                name,
                value,
                "high",
                int(flips.sum()),
                beside,
                predictions.name,
                {"per_attribute": per},
            )
        )
    return found + leakage(eval_data, predictions, rows, bits, k)


def real_auc(predictions: Predictions) -> dict[str, float]:
    """The judge's mean area under the curve on real test faces, from its own grade."""
    auc = predictions.test_metrics.get("test", {}).get("attributes", {}).get("auc")
    return {"real AUC": auc} if auc is not None else {}


def leakage(eval_data: EvalData, predictions: Predictions, rows: Tensor, bits: Tensor, k: int) -> list[Metric]:
    """Mean |change| of attributes that nobody asked for: in probability, and as logits in their real deviation."""
    export = eval_data.export
    bases, truths, sources = export.base[rows], export.truth[rows], export.source[rows]
    others = bits.isnan()
    p, logits = predictions.probabilities("fake")[:, k:], predictions.fake["logits"][:, k:]
    spread = predictions.real["logits"][:, k:].std(0).clamp_min(1e-6)

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
    per = {n: float(v) for n, v in zip(predictions.attributes, each, strict=True) if not math.isnan(v)}
    start = "against what the edit starts from"
    return [
        Metric(
            "leakage",
            f"leakage (mean |change| of other attributes' probability, {start}, judge {predictions.name})",
            value,
            "low",
            len(rows),
            beside,
            predictions.name,
            {"per_attribute": per},
        ),
        Metric(
            "leakage in sd",
            f"leakage (logits, in real standard deviations, {start}, judge {predictions.name})",
            deep,
            "low",
            len(rows),
            beside_deep,
            predictions.name,
        ),
    ]


def retention(eval_data: EvalData, predictions: Predictions, k: int) -> list[Metric]:
    """Accuracy on reconstructions against the sources' true bits (where unknown: as read on the source)."""
    rows = eval_data.export.main("reconstruction")
    rows = rows[eval_data.export.source[rows] >= 0]
    if not len(rows):
        return []
    logits, sources = predictions.fake["logits"][:, k:], eval_data.export.source[rows]
    bits = eval_data.source_attr(predictions, rows)
    true = bool((~bits.isnan()).any())
    bits = bits if true else (logits[sources] > 0).float()
    (each, _), (on_source, _) = agreement(logits[eval_data.export.file[rows]], bits), agreement(logits[sources], bits)
    per = {n: float(v) for n, v in zip(predictions.attributes, each, strict=True) if not math.isnan(v)}
    ratio = {n: float(v / s) for n, v, s in zip(predictions.attributes, each, on_source, strict=True) if s > 0}
    against = "the sources' labels" if true else "what it reads on the sources"
    about = f"reconstructions against {against}, mean over {len(per)} attributes, judge {predictions.name}"
    name = f"attributes retained ({about})"
    beside = {"source": float(on_source.nanmean())}
    detail = {"per_attribute": per, "over_source": ratio}
    return [
        Metric("attributes retained", name, float(each.nanmean()), "high", len(rows), beside, predictions.name, detail)
    ]

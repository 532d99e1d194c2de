"""Target accuracy of attributes, leakage into other attributes, attribute accuracy of samples and reconstructions."""

import math

import torch
from torch import Tensor

from evaluation.eval_data import EvalData, Predictions
from evaluation.metric import Metric

MIN_ROWS = 5  # edits of one attribute; fewer are not measured


def attribute_targets(eval_data: EvalData, rows: Tensor, predictions: Predictions) -> Tensor:
    """Target attributes (n, A) in {0, 1} of the rows; NaN = not requested."""
    bits = torch.full((len(rows), len(predictions.attributes)), torch.nan)
    for r, i in enumerate(rows.tolist()):
        for name, value in eval_data.export.rows[i].requests().items():
            if value and name in predictions.attributes:
                bits[r, predictions.attributes.index(name)] = float(value)
    return bits


def metrics(eval_data: EvalData) -> list[Metric]:
    """Metrics of samples, edits and reconstructions for every judge of attributes."""
    found: list[Metric] = []
    for predictions in eval_data.judges_with("attributes"):
        k = len(predictions.classes)
        if eval_data.has("sample"):
            rows = eval_data.export.at_full_strength("sample")
            found += samples(eval_data, predictions, rows, attribute_targets(eval_data, rows, predictions), k)
        if eval_data.has("edit"):
            rows = eval_data.export.at_full_strength("edit")
            found += edits(eval_data, predictions, rows, attribute_targets(eval_data, rows, predictions), k)
        if eval_data.has("reconstruction"):
            found += retention(eval_data, predictions, k)
    return found


def agreement(logits: Tensor, bits: Tensor) -> tuple[Tensor, float]:
    """Accuracy per attribute (A,) (NaN: never requested), and share of rows with all requested attributes correct.

    logits and bits: (n, A); NaN in bits = not requested.
    """
    known = ~bits.isnan()
    correct = ((logits > 0) == (bits > 0.5)) & known
    return correct.sum(0).double() / known.sum(0), float((correct | ~known).all(1).double().mean())


def attr_l2(probabilities: Tensor, bits: Tensor) -> float:
    """Mean over images of the Euclidean norm of p - target over the requested attributes; both (n, A)."""
    return float((probabilities - bits).nan_to_num().double().norm(dim=1).mean())


def samples(eval_data: EvalData, predictions: Predictions, rows: Tensor, bits: Tensor, k: int) -> list[Metric]:
    """Attribute accuracy, exact match and attribute L2 of samples.

    References: real faces, shuffled targets, and the majority value.
    """
    requested = ~bits.isnan().all(1)
    rows, bits = rows[requested], bits[requested]
    if not len(rows):
        return []
    files, judge = eval_data.export.file[rows], f"judge {predictions.name}"
    logits, p = predictions.fake["logits"][files, k:], predictions.probabilities("fake")[files, k:]
    each, exact = agreement(logits, bits)
    shuffled = bits[torch.randperm(len(bits), generator=torch.Generator().manual_seed(0))]
    chance, chance_exact = agreement(logits, shuffled)
    share = bits.nanmean(0)
    majority = float(torch.maximum(share, 1 - share).nanmean())
    references = [{"shuffled": float(chance.nanmean()), "majority": majority}, {"shuffled": chance_exact}]
    references.append({"shuffled": attr_l2(p, shuffled)})
    known = torch.where(bits.isnan().all(0), torch.nan, predictions.real_attr(eval_data))
    if (~known.isnan()).any():
        real_each, real_exact = agreement(predictions.real["logits"][:, k:], known)
        real_l2 = attr_l2(predictions.probabilities("real")[:, k:], known)
        real = (float(real_each.nanmean()), real_exact, real_l2)
        references = [{"real": value} | others for value, others in zip(real, references, strict=True)]
    per = {n: float(v) for n, v in zip(predictions.attributes, each, strict=True) if not math.isnan(v)}
    detail = {"per_attribute": per, "worst": min(per.values())}
    n, accuracy, l2 = len(rows), float(each.nanmean()), attr_l2(p, bits)
    name = f"attribute accuracy of samples (mean over {len(per)} attributes, {judge})"
    exact_name, l2_name = (
        f"exact match (all requested attributes, {judge})",
        f"attribute L2 (norm of p - target, {judge})",
    )
    return [
        Metric("attribute accuracy", name, accuracy, "high", n, references[0], predictions.name, detail),
        Metric("exact match", exact_name, exact, "high", n, references[1], predictions.name),
        Metric("attribute L2", l2_name, l2, "low", n, references[2], predictions.name),
    ]


def edits(eval_data: EvalData, predictions: Predictions, rows: Tensor, bits: Tensor, k: int) -> list[Metric]:
    """Attribute target accuracy over the sources that the judge classifies as the opposite value; and leakage."""
    export = eval_data.export
    sources, bases = export.source[rows], export.base[rows]
    if (sources < 0).any() or not (~bits.isnan()).any() and not any(export.rows[i].target for i in rows.tolist()):
        return []
    fake, source = predictions.fake["logits"][export.file[rows], k:], predictions.fake["logits"][sources, k:]
    flips = ~bits.isnan() & ((source > 0) != (bits > 0.5))
    per, base_per = {}, {}
    for a, name in enumerate(predictions.attributes):
        selected = flips[:, a]
        if selected.sum() >= MIN_ROWS:
            correct = (fake[selected, a] > 0) == (bits[selected, a] > 0.5)
            start = predictions.fake["logits"][bases[selected], k + a] > 0
            per[name] = float(correct.double().mean())
            base_per[name] = float((start == (bits[selected, a] > 0.5)).double().mean())
    found = []
    if per:
        references = {"no edit": 0.0, "base": sum(base_per.values()) / len(base_per)} | real_auc(predictions)
        name = (
            f"attribute target accuracy (mean over {len(per)}, sources of the opposite value, judge {predictions.name})"
        )
        value = sum(per.values()) / len(per)
        found.append(
            Metric(
                "attribute target accuracy",
                name,
                value,
                "high",
                int(flips.sum()),
                references,
                predictions.name,
                {"per_attribute": per},
            )
        )
    return found + leakage(eval_data, predictions, rows, bits, k)


def real_auc(predictions: Predictions) -> dict[str, float]:
    """The mean ROC AUC of the judge on its real test faces."""
    auc = predictions.test_metrics.get("test", {}).get("attributes", {}).get("auc")
    return {"real AUC": auc} if auc is not None else {}


def leakage(eval_data: EvalData, predictions: Predictions, rows: Tensor, bits: Tensor, k: int) -> list[Metric]:
    """Mean |change| of the attributes that were not requested, between base and edit.

    `leakage` in probability; `leakage in sd` in logits, divided by their standard deviation over real faces.
    """
    export = eval_data.export
    bases, truths, sources = export.base[rows], export.truth[rows], export.source[rows]
    others = bits.isnan()
    p, logits = predictions.probabilities("fake")[:, k:], predictions.fake["logits"][:, k:]
    std = predictions.real["logits"][:, k:].std(0).clamp_min(1e-6)

    def mean_change(values: Tensor, after: Tensor, before: Tensor) -> tuple[float, Tensor]:
        change = torch.where(others, (values[after] - values[before]).abs(), torch.nan).double()
        return float(change.nanmean()), change.nanmean(0)

    value, each = mean_change(p, export.file[rows], bases)
    value_sd, _ = mean_change(logits / std, export.file[rows], bases)
    references, references_sd = {"no edit": 0.0}, {"no edit": 0.0}
    if (truths >= 0).all():
        references["ground truth"], references_sd["ground truth"] = (
            mean_change(p, truths, sources)[0],
            mean_change(logits / std, truths, sources)[0],
        )
    references["base to source"] = mean_change(p, bases, sources)[0]
    per = {n: float(v) for n, v in zip(predictions.attributes, each, strict=True) if not math.isnan(v)}
    about = f"base to edit, judge {predictions.name}"
    return [
        Metric(
            "leakage",
            f"leakage (mean |change| in probability of other attributes, {about})",
            value,
            "low",
            len(rows),
            references,
            predictions.name,
            {"per_attribute": per},
        ),
        Metric(
            "leakage in sd",
            f"leakage (mean |change| of logits of other attributes, in standard deviations of real faces, {about})",
            value_sd,
            "low",
            len(rows),
            references_sd,
            predictions.name,
        ),
    ]


def retention(eval_data: EvalData, predictions: Predictions, k: int) -> list[Metric]:
    """Attribute accuracy of reconstructions against the true attributes of the sources, or the judge's prediction."""
    rows = eval_data.export.at_full_strength("reconstruction")
    rows = rows[eval_data.export.source[rows] >= 0]
    if not len(rows):
        return []
    logits, sources = predictions.fake["logits"][:, k:], eval_data.export.source[rows]
    bits = eval_data.source_attr(predictions, rows)
    known = bool((~bits.isnan()).any())
    bits = bits if known else (logits[sources] > 0).float()
    (each, _), (on_source, _) = agreement(logits[eval_data.export.file[rows]], bits), agreement(logits[sources], bits)
    per = {n: float(v) for n, v in zip(predictions.attributes, each, strict=True) if not math.isnan(v)}
    ratio = {n: float(v / s) for n, v, s in zip(predictions.attributes, each, on_source, strict=True) if s > 0}
    target = "labels of the sources" if known else "predictions for the sources"
    about = f"against the {target}, mean over {len(per)} attributes, judge {predictions.name}"
    name = f"reconstruction attribute accuracy ({about})"
    references = {"source": float(on_source.nanmean())}
    detail = {"per_attribute": per, "over_source": ratio}
    return [
        Metric(
            "reconstruction attribute accuracy",
            name,
            float(each.nanmean()),
            "high",
            len(rows),
            references,
            predictions.name,
            detail,
        )
    ]

"""Target accuracy and target gain of expressions; expression accuracy of samples and reconstructions."""

import math

import torch
from torch import Tensor

from evaluation.classifier_metrics import confusion
from evaluation.eval_data import EvalData, Predictions
from evaluation.metric import Metric

NUM_WORST = 8  # edits with the lowest probability of the target, for the report


def class_targets(eval_data: EvalData, rows: Tensor, predictions: Predictions) -> tuple[Tensor, Tensor]:
    """Rows whose target is one class, and its index (n,) long. Rows whose source has that class are left out."""
    kept, targets = [], []
    for i in rows.tolist():
        row = eval_data.export.rows[i]
        classes = [name for name, value in row.requests().items() if value == ""]
        if len(classes) != 1 or classes[0] == row.source_label:
            continue
        kept.append(i)
        targets.append(predictions.class_index(classes[0], row.file))
    return torch.tensor(kept, dtype=torch.long), torch.tensor(targets, dtype=torch.long)


def by_target(predicted: Tensor, target: Tensor, classes: int) -> tuple[Tensor, Tensor, float]:
    """Confusion matrix (K, K), accuracy per target (K,) (NaN: no such target), and its mean over the targets."""
    table = confusion(target, predicted, classes)
    recall = table.diag().double() / table.sum(1)
    return table, recall, float(recall[table.sum(1) > 0].mean()) if len(target) else math.nan


def metrics(eval_data: EvalData) -> list[Metric]:
    """Accuracy of edits, samples and reconstructions, and target gain, for every judge of expressions."""
    found = []
    for predictions in eval_data.judges_with("expression"):
        for kind in ("edit", "sample"):
            rows, target = (
                class_targets(eval_data, eval_data.export.at_full_strength(kind), predictions)
                if eval_data.has(kind)
                else (torch.empty(0), None)
            )
            if len(rows):
                found.append(accuracy(eval_data, predictions, kind, rows, target))
                if kind == "edit":
                    found += gain(eval_data, predictions, rows, target)
        found += retention(eval_data, predictions)
    return found


def accuracy(eval_data: EvalData, predictions: Predictions, kind: str, rows: Tensor, target: Tensor) -> Metric:
    """Share of images that the judge classifies as the target, mean over the targets.

    References: real faces of the class, the sources (no edit), and chance.
    """
    k, names = len(predictions.classes), predictions.classes
    files, sources = eval_data.export.file[rows], eval_data.export.source[rows]
    predicted = predictions.fake["logits"][files, :k].argmax(1)
    table, recall, macro = by_target(predicted, target, k)
    references, real_recall = {}, None
    if real_metrics := predictions.real_expression(eval_data):
        references["real"], real_recall = real_metrics["macro"], real_metrics["recall"]
    if (sources >= 0).all():
        references["no edit"] = by_target(predictions.fake["logits"][sources, :k].argmax(1), target, k)[2]
    references["chance"] = 1 / k
    probability = predictions.probabilities("fake")[files, target]
    lowest = probability.argsort(stable=True)[:NUM_WORST]
    rows_out = [eval_data.export.rows[rows[i]] for i in lowest.tolist()]
    worst = [
        {
            "file": r.file,
            "source": r.source,
            "target": names[target[i]],
            "predicted": names[predicted[i]],
            "p": float(probability[i]),
        }
        for r, i in zip(rows_out, lowest.tolist(), strict=True)
    ]
    each = {names[c]: float(recall[c]) for c in range(k) if table[c].sum()}
    name = "target accuracy" if kind == "edit" else "sample accuracy"
    about = {"edit": "sources of the target class are left out", "sample": "no source"}[kind]
    return Metric(
        name,
        f"{name} (mean over {len(each)} targets, {about}, judge {predictions.name})",
        macro,
        "high",
        len(rows),
        references,
        predictions.name,
        {
            "overall": float((predicted == target).double().mean()),
            "per_target": each,
            "confusion": table.tolist(),
            "classes": names,
            "real_recall": real_recall,
            "worst": worst,
        },
        suspicious_classes(each, table, names, real_recall),
    )


def suspicious_classes(
    each: dict[str, float], table: Tensor, names: list[str], real_recall: list[float] | None
) -> list[str]:
    """Warnings for targets whose accuracy is more than 3 standard errors above the recall on real faces."""
    found = []
    for name, share in each.items():
        if real_recall is None:
            break
        i = names.index(name)
        error = math.sqrt(max(real_recall[i] * (1 - real_recall[i]), 0.01) / max(int(table[i].sum()), 1))
        if share > real_recall[i] + 3 * error:
            found.append(
                f"'{name}': target accuracy {share:.2f}, on real faces {real_recall[i]:.2f}; "
                "the edits may contain texture that only the judge recognises"
            )
    return found


def gain(eval_data: EvalData, predictions: Predictions, rows: Tensor, target: Tensor) -> list[Metric]:
    """Target gain: mean of p(target | edit) - p(target | source), calibrated; empty if a source is missing."""
    files, sources = eval_data.export.file[rows], eval_data.export.source[rows]
    if (sources < 0).any():
        return []
    p = predictions.probabilities("fake")
    value = (p[files, target] - p[sources, target]).double()
    references = {"no edit": 0.0}
    truths = eval_data.export.truth[rows]
    if (truths >= 0).all():
        references["ground truth"] = float((p[truths, target] - p[sources, target]).double().mean())
    each = {predictions.classes[c]: float(value[target == c].mean()) for c in target.unique().tolist()}
    name = f"target gain (p(target | edit) - p(target | source), judge {predictions.name})"
    return [
        Metric(
            "target gain",
            name,
            float(value.mean()),
            "high",
            len(rows),
            references,
            predictions.name,
            {"per_target": each},
        )
    ]


def retention(eval_data: EvalData, predictions: Predictions) -> list[Metric]:
    """Share of reconstructions that the judge classifies as the source's label, mean over classes."""
    rows = (
        [
            i
            for i in eval_data.export.at_full_strength("reconstruction").tolist()
            if eval_data.export.rows[i].source_label
        ]
        if eval_data.has("reconstruction")
        else []
    )
    if not rows:
        return []
    k, index = len(predictions.classes), torch.tensor(rows)
    label = torch.tensor(
        [predictions.class_index(eval_data.export.rows[i].source_label, eval_data.export.rows[i].file) for i in rows]
    )
    predicted = predictions.fake["logits"][:, :k].argmax(1)
    table, recall, macro = by_target(predicted[eval_data.export.file[index]], label, k)
    sources = eval_data.export.source[index]
    references = {"source": by_target(predicted[sources], label, k)[2]} if (sources >= 0).all() else {}
    each = {predictions.classes[c]: float(recall[c]) for c in range(k) if table[c].sum()}
    name = f"reconstruction accuracy (classified as the source's label, mean over classes, judge {predictions.name})"
    detail = {"per_class": each, "confusion": table.tolist(), "classes": predictions.classes}
    return [
        Metric(
            "reconstruction accuracy",
            name,
            macro,
            "high",
            len(rows),
            references | {"chance": 1 / k},
            predictions.name,
            detail,
        )
    ]

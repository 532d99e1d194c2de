"""Does the face show the expression that was asked for?"""

import math

import torch
from torch import Tensor

from evaluation.eval_data import EvalData, Predictions
from evaluation.metric import Metric
from evaluation.classifier_metrics import confusion

WORST = 8


def requested(eval_data: EvalData, rows: Tensor, predictions: Predictions) -> tuple[Tensor, Tensor]:
    """Rows that ask for a class, and which (n,) long. Sources that show it already are left out of edits."""
    kept, targets = [], []
    for i in rows.tolist():
        row = eval_data.export.rows[i]
        wanted = [name for name, value in row.requests().items() if value == ""]
        if len(wanted) != 1 or wanted[0] == row.source_label:
            continue
        kept.append(i)
        targets.append(predictions.class_index(wanted[0], row.file))
    return torch.tensor(kept, dtype=torch.long), torch.tensor(targets, dtype=torch.long)


def by_target(told: Tensor, target: Tensor, classes: int) -> tuple[Tensor, Tensor, float]:
    """Confusion (K, K), recall of each class (NaN where nobody asked for it), mean over the classes asked for."""
    table = confusion(target, told, classes)
    recall = table.diag().double() / table.sum(1)
    return table, recall, float(recall[table.sum(1) > 0].mean()) if len(target) else math.nan


def metrics(eval_data: EvalData) -> list[Metric]:
    """Accuracy of edits, samples, reconstructions (retention), and the gain of edits, for every judge that can say."""
    found = []
    for predictions in eval_data.judges_with("expression"):
        for kind in ("edit", "sample"):
            rows, target = (
                requested(eval_data, eval_data.export.main(kind), predictions)
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
    """Share judged as requested, mean over the targets; the identity map's is that of the sources."""
    k, names = len(predictions.classes), predictions.classes
    files, sources = eval_data.export.file[rows], eval_data.export.source[rows]
    told = predictions.fake["logits"][files, :k].argmax(1)
    table, recall, macro = by_target(told, target, k)
    beside, real_recall = {}, None
    if figures_real := predictions.real_expression(eval_data):
        beside["real"], real_recall = figures_real["macro"], figures_real["recall"]
    if (sources >= 0).all():
        beside["no edit"] = by_target(predictions.fake["logits"][sources, :k].argmax(1), target, k)[2]
    beside["chance"] = 1 / k
    probability = predictions.probabilities("fake")[files, target]
    lowest = probability.argsort(stable=True)[:WORST]
    rows_out = [eval_data.export.rows[rows[i]] for i in lowest.tolist()]
    worst = [
        {
            "file": r.file,
            "source": r.source,
            "target": names[target[i]],
            "told": names[told[i]],
            "p": float(probability[i]),
        }
        for r, i in zip(rows_out, lowest.tolist(), strict=True)
    ]
    each = {names[c]: float(recall[c]) for c in range(k) if table[c].sum()}
    what = {"edit": "sources of the target's class left out", "sample": "no source"}[kind]
    return Metric(
        "target accuracy" if kind == "edit" else "sample accuracy",
        f"{kind} accuracy (mean over {len(each)} targets, {what}, judge {predictions.name})",
        macro,
        "high",
        len(rows),
        beside,
        predictions.name,
        {
            "overall": float((told == target).double().mean()),
            "per_target": each,
            "confusion": table.tolist(),
            "classes": names,
            "real_recall": real_recall,
            "worst": worst,
        },
        texture(each, table, names, real_recall),
    )


def texture(each: dict[str, float], table: Tensor, names: list[str], real_recall: list[float] | None) -> list[str]:
    """A class that is recognised more surely than on real faces is painted for the judge, not for people."""
    found = []
    for name, share in each.items():
        if real_recall is None:
            break
        i = names.index(name)
        error = math.sqrt(max(real_recall[i] * (1 - real_recall[i]), 0.01) / max(int(table[i].sum()), 1))
        if share > real_recall[i] + 3 * error:
            found.append(
                f"'{name}' is judged right at {share:.2f}, real faces at {real_recall[i]:.2f}: texture, not expression?"
            )
    return found


def gain(eval_data: EvalData, predictions: Predictions, rows: Tensor, target: Tensor) -> list[Metric]:
    """Mean of p(target | edit) - p(target | source), calibrated. Nothing where a source is missing."""
    files, sources = eval_data.export.file[rows], eval_data.export.source[rows]
    if (sources < 0).any():
        return []
    p = predictions.probabilities("fake")
    value = (p[files, target] - p[sources, target]).double()
    beside = {"no edit": 0.0}
    truths = eval_data.export.truth[rows]
    if (truths >= 0).all():
        beside["ground truth"] = float((p[truths, target] - p[sources, target]).double().mean())
    each = {predictions.classes[c]: float(value[target == c].mean()) for c in target.unique().tolist()}
    name = f"target gain (p of the target, edit - source, judge {predictions.name})"
    return [
        Metric(
            "target gain", name, float(value.mean()), "high", len(rows), beside, predictions.name, {"per_target": each}
        )
    ]


def retention(eval_data: EvalData, predictions: Predictions) -> list[Metric]:
    """The judge on reconstructions, against the sources' own labels, over the same on the sources."""
    rows = (
        [i for i in eval_data.export.main("reconstruction").tolist() if eval_data.export.rows[i].source_label]
        if eval_data.has("reconstruction")
        else []
    )
    if not rows:
        return []
    k, index = len(predictions.classes), torch.tensor(rows)
    label = torch.tensor(
        [predictions.class_index(eval_data.export.rows[i].source_label, eval_data.export.rows[i].file) for i in rows]
    )
    told = predictions.fake["logits"][:, :k].argmax(1)
    table, recall, macro = by_target(told[eval_data.export.file[index]], label, k)
    sources = eval_data.export.source[index]
    beside = {"source": by_target(told[sources], label, k)[2]} if (sources >= 0).all() else {}
    each = {predictions.classes[c]: float(recall[c]) for c in range(k) if table[c].sum()}
    about = f"reconstructions judged as the source's label, mean over classes, judge {predictions.name}"
    name = f"expression retained ({about})"
    detail = {"per_class": each, "confusion": table.tolist(), "classes": predictions.classes}
    return [
        Metric(
            "expression retained", name, macro, "high", len(rows), beside | {"chance": 1 / k}, predictions.name, detail
        )
    ]

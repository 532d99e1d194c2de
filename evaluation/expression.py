"""Does the face show the expression that was asked for?"""

import math

import torch
from torch import Tensor

from evaluation.case import Case, Judged
from evaluation.figure import Figure
from evaluation.grade import confusion

WORST = 8


def requested(case: Case, rows: Tensor, judged: Judged) -> tuple[Tensor, Tensor]:
    """Rows that ask for a class, and which (n,) long. Sources that show it already are left out of edits."""
    kept, targets = [], []
    for i in rows.tolist():
        row = case.export.rows[i]
        wanted = [name for name, value in row.requests().items() if value == ""]
        if len(wanted) != 1 or wanted[0] == row.source_label:
            continue
        kept.append(i)
        targets.append(judged.class_index(wanted[0], row.file))
    return torch.tensor(kept, dtype=torch.long), torch.tensor(targets, dtype=torch.long)


def by_target(told: Tensor, target: Tensor, classes: int) -> tuple[Tensor, Tensor, float]:
    """Confusion (K, K), recall of each class (NaN where nobody asked for it), mean over the classes asked for."""
    table = confusion(target, told, classes)
    recall = table.diag().double() / table.sum(1)
    return table, recall, float(recall[table.sum(1) > 0].mean()) if len(target) else math.nan


def figures(case: Case) -> list[Figure]:
    """Accuracy of edits, samples, reconstructions (retention), and the gain of edits, for every judge that can say."""
    found = []
    for judged in case.judges_with("expression"):
        for kind in ("edit", "sample"):
            rows, target = requested(case, case.export.main(kind), judged) if case.has(kind) else (torch.empty(0), None)
            if len(rows):
                found.append(accuracy(case, judged, kind, rows, target))
                if kind == "edit":
                    found += gain(case, judged, rows, target)
        found += retention(case, judged)
    return found


def accuracy(case: Case, judged: Judged, kind: str, rows: Tensor, target: Tensor) -> Figure:
    """Share judged as requested, mean over the targets; the identity map's is that of the sources."""
    k, names = len(judged.classes), judged.classes
    files, sources = case.export.file[rows], case.export.source[rows]
    told = judged.fake["logits"][files, :k].argmax(1)
    table, recall, macro = by_target(told, target, k)
    beside, real_recall = {}, None
    if figures_real := judged.real_expression(case):
        beside["real"], real_recall = figures_real["macro"], figures_real["recall"]
    if (sources >= 0).all():
        beside["no edit"] = by_target(judged.fake["logits"][sources, :k].argmax(1), target, k)[2]
    beside["chance"] = 1 / k
    probability = judged.probabilities("fake")[files, target]
    lowest = probability.argsort(stable=True)[:WORST]
    rows_out = [case.export.rows[rows[i]] for i in lowest.tolist()]
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
    return Figure(
        "target accuracy" if kind == "edit" else "sample accuracy",
        f"{kind} accuracy (mean over {len(each)} targets, {what}, judge {judged.name})",
        macro,
        "high",
        len(rows),
        beside,
        judged.name,
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


def gain(case: Case, judged: Judged, rows: Tensor, target: Tensor) -> list[Figure]:
    """Mean of p(target | edit) - p(target | source), calibrated. Nothing where a source is missing."""
    files, sources = case.export.file[rows], case.export.source[rows]
    if (sources < 0).any():
        return []
    p = judged.probabilities("fake")
    value = (p[files, target] - p[sources, target]).double()
    beside = {"no edit": 0.0}
    truths = case.export.truth[rows]
    if (truths >= 0).all():
        beside["ground truth"] = float((p[truths, target] - p[sources, target]).double().mean())
    each = {judged.classes[c]: float(value[target == c].mean()) for c in target.unique().tolist()}
    name = f"target gain (p of the target, edit - source, judge {judged.name})"
    return [
        Figure("target gain", name, float(value.mean()), "high", len(rows), beside, judged.name, {"per_target": each})
    ]


def retention(case: Case, judged: Judged) -> list[Figure]:
    """The judge on reconstructions, against the sources' own labels, over the same on the sources."""
    rows = (
        [i for i in case.export.main("reconstruction").tolist() if case.export.rows[i].source_label]
        if case.has("reconstruction")
        else []
    )
    if not rows:
        return []
    k, index = len(judged.classes), torch.tensor(rows)
    label = torch.tensor([judged.class_index(case.export.rows[i].source_label, case.export.rows[i].file) for i in rows])
    told = judged.fake["logits"][:, :k].argmax(1)
    table, recall, macro = by_target(told[case.export.file[index]], label, k)
    sources = case.export.source[index]
    beside = {"source": by_target(told[sources], label, k)[2]} if (sources >= 0).all() else {}
    each = {judged.classes[c]: float(recall[c]) for c in range(k) if table[c].sum()}
    name = f"expression retained (reconstructions judged as the source's label, mean over classes, judge {judged.name})"
    detail = {"per_class": each, "confusion": table.tolist(), "classes": judged.classes}
    return [
        Figure("expression retained", name, macro, "high", len(rows), beside | {"chance": 1 / k}, judged.name, detail)
    ]

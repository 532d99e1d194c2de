"""Edits at several strengths: monotonicity, and target accuracy against identity similarity."""

import torch

from evaluation.eval_data import EvalData, Predictions
from evaluation.metric import Metric
from evaluation.pictures import ssim

MIN_STRENGTHS = 3  # strengths of one source and target


def metrics(eval_data: EvalData) -> list[Metric]:
    """Spearman correlation of strength and p(target), and largest step of p between neighbouring strengths; means."""
    from scipy.stats import spearmanr

    found: list[Metric] = []
    for predictions in eval_data.judges:
        if not predictions.judge.names:
            continue
        p, correlations, steps = predictions.probabilities("fake"), [], []
        for target, series in strength_series(eval_data, predictions).items():
            values = torch.stack([probability(predictions, p, eval_data, i, target) for i in series]).double()
            strengths = [eval_data.export.rows[i].strength for i in series]
            # The correlation of a constant is undefined; it counts as 0.
            flat = float(values.max() - values.min()) < 1e-6
            correlations.append(0.0 if flat else float(spearmanr(strengths, values.numpy()).statistic))
            steps.append(float(values.diff().abs().max()))
        if correlations:
            n, mean = len(correlations), sum(correlations) / len(correlations)
            about = f"mean over {n} series, sources of the target class are left out, judge {predictions.name}"
            name = f"strength Spearman (strength and p(target), {about})"
            found.append(Metric("strength Spearman", name, mean, "high", n, {"no edit": 0.0}, predictions.name))
            name = f"strength step (largest change of p(target) between neighbouring strengths, {about})"
            found.append(Metric("strength step", name, sum(steps) / n, "low", n, {}, predictions.name))
    return found


def strength_series(eval_data: EvalData, predictions: Predictions) -> dict[tuple, list[int]]:
    """{(source, target, seed): rows by rising strength} of edits with three or more strengths.

    Sources of the target class are left out.
    """
    groups: dict[tuple, list[int]] = {}
    for i, row in enumerate(eval_data.export.rows):
        known = all(
            (name in predictions.attributes) if value else (name in predictions.classes)
            for name, value in row.requests().items()
        )
        has_target = row.target == row.source_label
        if row.kind == "edit" and row.target and known and not has_target:
            groups.setdefault((row.source, row.target, row.seed), []).append(i)
    rising = {key: sorted(g, key=lambda i: eval_data.export.rows[i].strength) for key, g in groups.items()}
    return {key: g for key, g in rising.items() if len({eval_data.export.rows[i].strength for i in g}) >= MIN_STRENGTHS}


def probability(
    predictions: Predictions, p: torch.Tensor, eval_data: EvalData, row: int, target: object
) -> torch.Tensor:
    """Mean probability of the targets of a row, scalar tensor."""
    values = []
    for name, value in eval_data.export.rows[row].requests().items():
        value_p = p[eval_data.export.file[row], predictions.judge.names.index(name)]
        values.append(1 - value_p if value == "0" else value_p)
    return torch.stack(values).mean()


def tradeoff(eval_data: EvalData) -> list[dict]:
    """Per strength: target accuracy, and identity similarity (SSIM to the source without a judge of identity)."""
    from evaluation.expression import by_target, class_targets

    judge = next(eval_data.judges_with("expression"), None)
    if judge is None:
        return []
    identity, e, points = next(eval_data.judges_with("identity"), None), eval_data.export, []
    for strength in sorted({row.strength for row in e.rows if row.kind == "edit"}):
        at = e.rows_where(lambda row, s=strength: row.kind == "edit" and row.strength == s and bool(row.source))
        rows, target = class_targets(eval_data, at, judge)
        if not len(rows):
            continue
        files, sources, k = e.file[rows], e.source[rows], len(judge.classes)
        accuracy = by_target(judge.fake["logits"][files, :k].argmax(1), target, k)[2]
        if identity is not None:
            similarity = float((identity.fake["features"][files] * identity.fake["features"][sources]).sum(1).mean())
        else:
            similarity = float(ssim(e.images[files], e.images[sources]).mean())
        points.append(
            {"strength": strength, "target accuracy": accuracy, "identity similarity": similarity, "n": len(rows)}
        )
    return points

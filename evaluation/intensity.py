"""Does more strength show more of what was asked for, and what does it cost?"""

import torch

from evaluation.eval_data import EvalData, Predictions
from evaluation.metric import Metric
from evaluation.pictures import ssim

LEAST = 3  # strengths of one source and target


def metrics(eval_data: EvalData) -> list[Metric]:
    """Mean Spearman correlation of strength and p(target), and the largest step of p between neighbours."""
    from scipy.stats import spearmanr

    found: list[Metric] = []
    for predictions in eval_data.judges:
        if not predictions.judge.names:
            continue
        p, correlations, steps = predictions.probabilities("fake"), [], []
        for target, series in ladders(eval_data, predictions).items():
            values = torch.stack([probability(predictions, p, eval_data, i, target) for i in series]).double()
            strengths = [eval_data.export.rows[i].strength for i in series]
            # A flat line has no correlation; it follows nothing.
            flat = float(values.max() - values.min()) < 1e-6
            correlations.append(0.0 if flat else float(spearmanr(strengths, values.numpy()).statistic))
            steps.append(float(values.diff().abs().max()))
        if correlations:
            n, mean = len(correlations), sum(correlations) / len(correlations)
            about = f"mean over {n} ladders of sources without it, judge {predictions.name}"
            name = f"strength, Spearman (strength against p of the target, {about})"
            found.append(Metric("strength Spearman", name, mean, "high", n, {"no edit": 0.0}, predictions.name))
            name = f"strength, largest step (of p between neighbours, {about})"
            found.append(Metric("strength step", name, sum(steps) / n, "low", n, {}, predictions.name))
    return found


def ladders(eval_data: EvalData, predictions: Predictions) -> dict[tuple, list[int]]:
    """{(source, target, seed): rows by rising strength} of edits with at least three strengths; sources that show the
    target already are left out."""
    groups: dict[tuple, list[int]] = {}
    for i, row in enumerate(eval_data.export.rows):
        known = all(
            (name in predictions.attributes) if value else (name in predictions.classes)
            for name, value in row.requests().items()
        )
        shown = row.target == row.source_label  # p of what is there already has nowhere to rise
        if row.kind == "edit" and row.target and known and not shown:
            groups.setdefault((row.source, row.target, row.seed), []).append(i)
    rising = {key: sorted(g, key=lambda i: eval_data.export.rows[i].strength) for key, g in groups.items()}
    return {key: g for key, g in rising.items() if len({eval_data.export.rows[i].strength for i in g}) >= LEAST}


def probability(
    predictions: Predictions, p: torch.Tensor, eval_data: EvalData, row: int, target: object
) -> torch.Tensor:
    """Mean probability of what the row asks for."""
    wanted = []
    for name, value in eval_data.export.rows[row].requests().items():
        read = p[eval_data.export.file[row], predictions.judge.names.index(name)]
        wanted.append(1 - read if value == "0" else read)
    return torch.stack(wanted).mean()


def tradeoff(eval_data: EvalData) -> list[dict]:
    """A point per strength: share of edits judged as asked for, and identity (cosine, or SSIM without such a judge)."""
    from evaluation.expression import by_target, requested

    reader = next(eval_data.judges_with("expression"), None)
    if reader is None:
        return []
    person, e, points = next(eval_data.judges_with("identity"), None), eval_data.export, []
    for strength in sorted({row.strength for row in e.rows if row.kind == "edit"}):
        at = e.rows_where(lambda row, s=strength: row.kind == "edit" and row.strength == s and bool(row.source))
        rows, target = requested(eval_data, at, reader)
        if not len(rows):
            continue
        files, sources, k = e.file[rows], e.source[rows], len(reader.classes)
        right = by_target(reader.fake["logits"][files, :k].argmax(1), target, k)[2]
        if person is not None:
            same = float((person.fake["features"][files] * person.fake["features"][sources]).sum(1).mean())
        else:
            same = float(ssim(e.images[files], e.images[sources]).mean())
        points.append({"strength": strength, "accuracy": right, "identity": same, "n": len(rows)})
    return points

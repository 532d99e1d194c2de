"""Does more strength show more of what was asked for, and what does it cost?"""

import torch

from evaluation.case import Case, Judged
from evaluation.figure import Figure
from evaluation.pictures import ssim

LEAST = 3  # strengths of one source and target


def figures(case: Case) -> list[Figure]:
    """Mean Spearman correlation of strength and p(target), and the largest step of p between neighbours."""
    from scipy.stats import spearmanr

    found: list[Figure] = []
    for judged in case.judges:
        if not judged.judge.names:
            continue
        p, correlations, steps = judged.probabilities("fake"), [], []
        for target, series in ladders(case, judged).items():
            values = torch.stack([probability(judged, p, case, i, target) for i in series]).double()
            strengths = [case.export.rows[i].strength for i in series]
            # A flat line has no correlation; it follows nothing.
            flat = float(values.max() - values.min()) < 1e-6
            correlations.append(0.0 if flat else float(spearmanr(strengths, values.numpy()).statistic))
            steps.append(float(values.diff().abs().max()))
        if correlations:
            n, mean = len(correlations), sum(correlations) / len(correlations)
            about = f"mean over {n} ladders of sources without it, judge {judged.name}"
            name = f"strength, Spearman (strength against p of the target, {about})"
            found.append(Figure("strength Spearman", name, mean, "high", n, {"no edit": 0.0}, judged.name))
            name = f"strength, largest step (of p between neighbours, {about})"
            found.append(Figure("strength step", name, sum(steps) / n, "low", n, {}, judged.name))
    return found


def ladders(case: Case, judged: Judged) -> dict[tuple, list[int]]:
    """{(source, target, seed): rows by rising strength} of edits with at least three strengths; sources that show the
    target already are left out."""
    groups: dict[tuple, list[int]] = {}
    for i, row in enumerate(case.export.rows):
        known = all(
            (name in judged.attributes) if value else (name in judged.classes) for name, value in row.requests().items()
        )
        shown = row.target == row.source_label  # p of what is there already has nowhere to rise
        if row.kind == "edit" and row.target and known and not shown:
            groups.setdefault((row.source, row.target, row.seed), []).append(i)
    rising = {key: sorted(g, key=lambda i: case.export.rows[i].strength) for key, g in groups.items()}
    return {key: g for key, g in rising.items() if len({case.export.rows[i].strength for i in g}) >= LEAST}


def probability(judged: Judged, p: torch.Tensor, case: Case, row: int, target: object) -> torch.Tensor:
    """Mean probability of what the row asks for."""
    wanted = []
    for name, value in case.export.rows[row].requests().items():
        read = p[case.export.file[row], judged.judge.names.index(name)]
        wanted.append(1 - read if value == "0" else read)
    return torch.stack(wanted).mean()


def tradeoff(case: Case) -> list[dict]:
    """A point per strength: share of edits judged as asked for, and identity (cosine, or SSIM without such a judge)."""
    from evaluation.expression import by_target, requested

    reader = next(case.judges_with("expression"), None)
    if reader is None:
        return []
    person, e, points = next(case.judges_with("identity"), None), case.export, []
    for strength in sorted({row.strength for row in e.rows if row.kind == "edit"}):
        at = e.rows_where(lambda row, s=strength: row.kind == "edit" and row.strength == s and bool(row.source))
        rows, target = requested(case, at, reader)
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

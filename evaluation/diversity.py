"""Is there variety, does the seed matter, and is anything copied from the training set?"""

import torch
from torch import Tensor

from evaluation.eval_data import EvalData
from evaluation.metric import Metric
from evaluation.pictures import ms_ssim, scales, ssim

PAIRS = 256  # of one condition
LEAST = 8  # images of one condition
TWINS = 0.05  # share of pixel-equal images in one condition that raises the alarm
CLOSE = 0.5  # of what is usual between real faces; below it an alarm rings
COMMON_TARGETS = 12  # conditions looked at, the largest first


def random_pairs(n: int, count: int = PAIRS) -> tuple[Tensor, Tensor]:
    """Indices of `count` pairs of two different ones among n, always the same."""
    g = torch.Generator().manual_seed(0)
    first = torch.randint(n, (count,), generator=g)
    return first, (first + torch.randint(1, n, (count,), generator=g)) % n


def within(images: Tensor, features: Tensor) -> tuple[float, float, float]:
    """Mean MS-SSIM, feature distance and SSIM of random pairs of (N, C, H, W) uint8 and (N, F)."""
    first, second = random_pairs(len(images))
    apart = (features[first] - features[second]).norm(dim=1).mean()
    a, b = images[first], images[second]
    return float(ms_ssim(a, b).mean()), float(apart), float(ssim(a, b).mean())


def duplicate_rate(images: Tensor) -> float:
    """Share of images that are equal, pixel by pixel, to an earlier one."""
    return 1 - len({x.numpy().tobytes() for x in images}) / len(images)


def metrics(eval_data: EvalData) -> list[Metric]:
    """Within one condition, over seeds, and against the training faces. Alarms go to `case.alarms`."""
    network, fake, real, train = eval_data.features()
    found: list[Metric] = []
    for kind in eval_data.kinds():
        if kind != "reconstruction":
            found += of_conditions(eval_data, kind, network, fake, real)
            found += of_seeds(eval_data, kind, network, fake)
        found += memorised(eval_data, kind, network, fake, real, train)
    return found


def of_conditions(eval_data: EvalData, kind: str, network: str, fake: Tensor, real: Tensor) -> list[Metric]:
    """Mean MS-SSIM and feature distance between images of one condition, over the conditions, real ones beside."""
    e, measured, beside, equal, few = eval_data.export, [], [], [], []
    groups = sorted(eval_data.conditions(kind).items(), key=lambda item: (-len(item[1]), item[0]))[:COMMON_TARGETS]
    groups = [(target, rows) for target, rows in groups if len(rows) >= LEAST]
    # Faces without labels show no condition; then all of them are the only thing to compare with.
    labelled = any(len(eval_data.real_of(target)) >= LEAST for target, _ in groups)
    pixels = eval_data.real_pixels()
    for target, rows in groups:
        files = e.file[rows]
        equal.append(duplicate_rate(e.images[files]))
        if equal[-1] > TWINS:
            eval_data.alarms.append(
                f"collapse: {equal[-1]:.0%} of the {kind}s for '{target or 'nothing'}' are copies of each other"
            )
        others = eval_data.real_of(target) if labelled else torch.arange(len(real))
        if len(others) < LEAST:
            few.append(target)
            continue
        measured.append(within(e.images[files], fake[files]))
        beside.append(within(pixels[others], real[others]))
        if labelled and measured[-1][1] < CLOSE * beside[-1][1]:
            eval_data.alarms.append(
                f"collapse: {kind}s for '{target or 'nothing'}' are {measured[-1][1] / beside[-1][1]:.2f} "
                "as far apart as real faces"
            )
    eval_data.notes += comparison_notes(kind, few, bool(measured) and not labelled)
    if not measured:
        return []
    n, mean = sum(len(rows) for target, rows in groups if target not in few), lambda values: sum(values) / len(values)
    same = f"pairs of one condition, mean over {len(measured)}"
    return [
        Metric(
            f"{kind} SSIM within",
            f"{kind} SSIM within ({same})",
            mean([m[2] for m in measured]),
            "",
            n,
            {"real": mean([b[2] for b in beside])},
        ),
        Metric(
            f"{kind} MS-SSIM within",
            f"{kind} MS-SSIM-{scales(pixels.shape[-1])} within ({same})",
            mean([m[0] for m in measured]),
            "",
            n,
            {"real": mean([b[0] for b in beside])},
        ),
        Metric(
            f"{kind} distance within",
            f"{kind} distance within ({same}, features of {network}, over real)",
            mean([m[1] / max(b[1], 1e-12) for m, b in zip(measured, beside, strict=True)]),
            "",
            n,
            {"real": 1.0},
            detail={"copies": max(equal)},
        ),
    ]


def comparison_notes(kind: str, few: list[str], with_all: bool) -> list[str]:
    """Lines about conditions that too few real faces show, and about a comparison with all real faces."""
    notes = []
    if few:
        names = ", ".join(target or "nothing" for target in few)
        notes.append(f"variety of {kind}s for {names}: left out, since fewer than {LEAST} real faces show it")
    if with_all:
        notes.append(f"variety of {kind}s: compared with all real faces, since none is known to show the same")
    return notes


def of_seeds(eval_data: EvalData, kind: str, network: str, fake: Tensor) -> list[Metric]:
    """Mean feature distance between images that differ in their seed only."""
    groups: dict[tuple, list[int]] = {}
    for i in eval_data.export.main(kind).tolist():
        row = eval_data.export.rows[i]
        if kind == "edit":
            groups.setdefault((row.source, row.target), []).append(i)
    pairs = [
        (g[0], other)
        for g in groups.values()
        for other in g[1:]
        if eval_data.export.rows[other].seed != eval_data.export.rows[g[0]].seed
    ]
    if len(pairs) < LEAST:
        return []
    first, second = (eval_data.export.file[torch.tensor(side)] for side in zip(*pairs, strict=True))
    value = float((fake[first] - fake[second]).norm(dim=1).mean())
    return [
        Metric(
            f"{kind} over seeds",
            f"{kind} distance between seeds (one request, features of {network})",
            value,
            "",
            len(pairs),
        )
    ]


def nearest(points: Tensor, others: Tensor) -> Tensor:
    """(N,) distance of each point to the nearest of `others`, float64."""
    points, others = points.double(), others.double()
    return torch.cat([torch.cdist(part, others).amin(1) for part in points.split(1024)])


def memorised(eval_data: EvalData, kind: str, network: str, fake: Tensor, real: Tensor, train: Tensor) -> list[Metric]:
    """Median distance to the nearest training face over that of unseen real faces; far below 1: copies."""
    if not eval_data.real.has_train or not len(train):
        return []
    rows = eval_data.subsample(eval_data.export.main(kind), 2000)
    usual = float(nearest(real[:2000], train).median())
    value = float(nearest(fake[eval_data.export.file[rows]], train).median()) / max(usual, 1e-12)
    if value < CLOSE:
        eval_data.alarms.append(
            f"memorisation: {kind}s lie at {value:.2f} of the usual distance from the nearest training face"
        )
    of = f"median distance over that of {eval_data.real.name}, {len(train)} training faces, features of {network}"
    name = f"{kind} nearest training face ({of})"
    return [Metric(f"{kind} nearest training face", name, value, "", len(rows), {"real": 1.0})]

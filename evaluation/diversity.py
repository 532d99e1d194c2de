"""Is there variety, does the seed matter, and is anything copied from the training set?"""

import torch
from torch import Tensor

from evaluation.case import Case
from evaluation.figure import Figure
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


def twins(images: Tensor) -> float:
    """Share of images that are equal, pixel by pixel, to an earlier one."""
    return 1 - len({x.numpy().tobytes() for x in images}) / len(images)


def figures(case: Case) -> list[Figure]:
    """Within one condition, over seeds, and against the training faces. Alarms go to `case.alarms`."""
    network, fake, real, train = case.features()
    found: list[Figure] = []
    for kind in case.kinds():
        if kind != "reconstruction":
            found += of_conditions(case, kind, network, fake, real)
            found += of_seeds(case, kind, network, fake)
        found += memorised(case, kind, network, fake, real, train)
    return found


def of_conditions(case: Case, kind: str, network: str, fake: Tensor, real: Tensor) -> list[Figure]:
    """Mean MS-SSIM and feature distance between images of one condition, over the conditions, real ones beside."""
    e, measured, beside, equal, few = case.export, [], [], [], []
    groups = sorted(case.conditions(kind).items(), key=lambda item: (-len(item[1]), item[0]))[:COMMON_TARGETS]
    groups = [(target, rows) for target, rows in groups if len(rows) >= LEAST]
    # Faces without labels show no condition; then all of them are the only thing to compare with.
    labelled = any(len(case.real_of(target)) >= LEAST for target, _ in groups)
    pixels = case.real_pixels()
    for target, rows in groups:
        files = e.file[rows]
        equal.append(twins(e.images[files]))
        if equal[-1] > TWINS:
            case.alarms.append(
                f"collapse: {equal[-1]:.0%} of the {kind}s for '{target or 'nothing'}' are copies of each other"
            )
        others = case.real_of(target) if labelled else torch.arange(len(real))
        if len(others) < LEAST:
            few.append(target)
            continue
        measured.append(within(e.images[files], fake[files]))
        beside.append(within(pixels[others], real[others]))
        if labelled and measured[-1][1] < CLOSE * beside[-1][1]:
            case.alarms.append(
                f"collapse: {kind}s for '{target or 'nothing'}' are {measured[-1][1] / beside[-1][1]:.2f} "
                "as far apart as real faces"
            )
    case.notes += comparison_notes(kind, few, bool(measured) and not labelled)
    if not measured:
        return []
    n, mean = sum(len(rows) for target, rows in groups if target not in few), lambda values: sum(values) / len(values)
    same = f"pairs of one condition, mean over {len(measured)}"
    return [
        Figure(
            f"{kind} SSIM within",
            f"{kind} SSIM within ({same})",
            mean([m[2] for m in measured]),
            "",
            n,
            {"real": mean([b[2] for b in beside])},
        ),
        Figure(
            f"{kind} MS-SSIM within",
            f"{kind} MS-SSIM-{scales(pixels.shape[-1])} within ({same})",
            mean([m[0] for m in measured]),
            "",
            n,
            {"real": mean([b[0] for b in beside])},
        ),
        Figure(
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


def of_seeds(case: Case, kind: str, network: str, fake: Tensor) -> list[Figure]:
    """Mean feature distance between images that differ in their seed only."""
    groups: dict[tuple, list[int]] = {}
    for i in case.export.main(kind).tolist():
        row = case.export.rows[i]
        if kind == "edit":
            groups.setdefault((row.source, row.target), []).append(i)
    pairs = [
        (g[0], other)
        for g in groups.values()
        for other in g[1:]
        if case.export.rows[other].seed != case.export.rows[g[0]].seed
    ]
    if len(pairs) < LEAST:
        return []
    first, second = (case.export.file[torch.tensor(side)] for side in zip(*pairs, strict=True))
    value = float((fake[first] - fake[second]).norm(dim=1).mean())
    return [
        Figure(
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


def memorised(case: Case, kind: str, network: str, fake: Tensor, real: Tensor, train: Tensor) -> list[Figure]:
    """Median distance to the nearest training face over that of unseen real faces; far below 1: copies."""
    if not case.real.has_train or not len(train):
        return []
    rows = case.thin(case.export.main(kind), 2000)
    usual = float(nearest(real[:2000], train).median())
    value = float(nearest(fake[case.export.file[rows]], train).median()) / max(usual, 1e-12)
    if value < CLOSE:
        case.alarms.append(
            f"memorisation: {kind}s lie at {value:.2f} of the usual distance from the nearest training face"
        )
    of = f"median distance over that of {case.real.name}, {len(train)} training faces, features of {network}"
    name = f"{kind} nearest training face ({of})"
    return [Figure(f"{kind} nearest training face", name, value, "", len(rows), {"real": 1.0})]

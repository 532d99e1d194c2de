"""Diversity within one condition and between seeds; copies of training faces."""

import torch
from torch import Tensor

from evaluation.eval_data import EvalData
from evaluation.folder import evenly_spaced
from evaluation.metric import Metric
from evaluation.pictures import ms_ssim, scales, ssim

NUM_PAIRS = 256  # random pairs of one condition
MIN_IMAGES = 8  # images of one condition
MAX_DUPLICATE_RATE = 0.05  # share of equal images in one condition above which an alarm is raised
MIN_DISTANCE_RATIO = 0.5  # distance over that of real faces, below which an alarm is raised
MAX_CONDITIONS = 12  # conditions that are measured, the largest first


def random_pairs(n: int, count: int = NUM_PAIRS) -> tuple[Tensor, Tensor]:
    """Indices (count,) and (count,) of random pairs of two different images among n; the seed is fixed."""
    g = torch.Generator().manual_seed(0)
    first = torch.randint(n, (count,), generator=g)
    return first, (first + torch.randint(1, n, (count,), generator=g)) % n


def pair_similarity(images: Tensor, features: Tensor) -> tuple[float, float, float]:
    """Mean MS-SSIM, feature distance and SSIM of random pairs of (N, C, H, W) uint8 and (N, F)."""
    first, second = random_pairs(len(images))
    apart = (features[first] - features[second]).norm(dim=1).mean()
    a, b = images[first], images[second]
    return float(ms_ssim(a, b).mean()), float(apart), float(ssim(a, b).mean())


def duplicate_rate(images: Tensor) -> float:
    """Share of images (N, C, H, W) whose pixels equal those of an earlier image."""
    return 1 - len({x.numpy().tobytes() for x in images}) / len(images)


def metrics(eval_data: EvalData) -> list[Metric]:
    """Diversity within one condition and between seeds, and distance to training faces. Adds to `eval_data.alarms`."""
    network, fake, real, train = eval_data.features()
    found: list[Metric] = []
    for kind in eval_data.kinds():
        if kind != "reconstruction":
            found += intra_class_diversity(eval_data, kind, network, fake, real)
            found += seed_diversity(eval_data, kind, network, fake)
        found += nearest_training_face(eval_data, kind, network, fake, real, train)
    return found


def intra_class_diversity(eval_data: EvalData, kind: str, network: str, fake: Tensor, real: Tensor) -> list[Metric]:
    """Mean SSIM, MS-SSIM and feature distance of pairs of one condition; mean over conditions, and of real faces."""
    e, measured, references, duplicates, few = eval_data.export, [], [], [], []
    groups = sorted(eval_data.conditions(kind).items(), key=lambda item: (-len(item[1]), item[0]))[:MAX_CONDITIONS]
    groups = [(target, rows) for target, rows in groups if len(rows) >= MIN_IMAGES]
    # Without labels the condition of a real face is unknown; then all real faces are the reference.
    labelled = any(len(eval_data.real_faces_with(target)) >= MIN_IMAGES for target, _ in groups)
    pixels = eval_data.real_pixels()
    for target, rows in groups:
        files = e.file[rows]
        duplicates.append(duplicate_rate(e.images[files]))
        if duplicates[-1] > MAX_DUPLICATE_RATE:
            eval_data.alarms.append(
                f"collapse: {duplicates[-1]:.0%} of the {kind}s for '{target or 'nothing'}' are copies of each other"
            )
        others = eval_data.real_faces_with(target) if labelled else torch.arange(len(real))
        if len(others) < MIN_IMAGES:
            few.append(target)
            continue
        measured.append(pair_similarity(e.images[files], fake[files]))
        references.append(pair_similarity(pixels[others], real[others]))
        if labelled and measured[-1][1] < MIN_DISTANCE_RATIO * references[-1][1]:
            eval_data.alarms.append(
                f"collapse: {kind}s for '{target or 'nothing'}' have {measured[-1][1] / references[-1][1]:.2f} "
                "of the distance between real faces"
            )
    eval_data.notes += comparison_notes(kind, few, bool(measured) and not labelled)
    if not measured:
        return []
    n, mean = sum(len(rows) for target, rows in groups if target not in few), lambda values: sum(values) / len(values)
    same = f"pairs of one condition, mean over {len(measured)}"
    return [
        Metric(
            f"{kind} intra-class SSIM",
            f"{kind} intra-class SSIM ({same})",
            mean([m[2] for m in measured]),
            "",
            n,
            {"real": mean([b[2] for b in references])},
        ),
        Metric(
            f"{kind} intra-class MS-SSIM",
            f"{kind} intra-class MS-SSIM-{scales(pixels.shape[-1])} ({same})",
            mean([m[0] for m in measured]),
            "",
            n,
            {"real": mean([b[0] for b in references])},
        ),
        Metric(
            f"{kind} intra-class distance",
            f"{kind} intra-class distance ({same}, features of {network}, divided by that of real faces)",
            mean([m[1] / max(b[1], 1e-12) for m, b in zip(measured, references, strict=True)]),
            "",
            n,
            {"real": 1.0},
            detail={"duplicate_rate": max(duplicates)},
        ),
    ]


def comparison_notes(kind: str, few: list[str], with_all: bool) -> list[str]:
    """Notes on conditions with too few real faces, and on the comparison with all real faces."""
    notes = []
    if few:
        names = ", ".join(target or "nothing" for target in few)
        notes.append(
            f"diversity of {kind}s for {names}: left out, because fewer than {MIN_IMAGES} real faces have this label"
        )
    if with_all:
        notes.append(f"diversity of {kind}s: compared with all real faces, because they have no labels")
    return notes


def seed_diversity(eval_data: EvalData, kind: str, network: str, fake: Tensor) -> list[Metric]:
    """Mean feature distance between edits that differ in their seed only."""
    groups: dict[tuple, list[int]] = {}
    for i in eval_data.export.at_full_strength(kind).tolist():
        row = eval_data.export.rows[i]
        if kind == "edit":
            groups.setdefault((row.source, row.target), []).append(i)
    pairs = [
        (g[0], other)
        for g in groups.values()
        for other in g[1:]
        if eval_data.export.rows[other].seed != eval_data.export.rows[g[0]].seed
    ]
    if len(pairs) < MIN_IMAGES:
        return []
    first, second = (eval_data.export.file[torch.tensor(side)] for side in zip(*pairs, strict=True))
    value = float((fake[first] - fake[second]).norm(dim=1).mean())
    return [
        Metric(
            f"{kind} seed distance",
            f"{kind} seed distance (pairs of one source and target, features of {network})",
            value,
            "",
            len(pairs),
        )
    ]


def nearest_distance(points: Tensor, others: Tensor) -> Tensor:
    """(N,) Euclidean distance, float64, of each point (N, F) to the nearest of `others` (M, F)."""
    points, others = points.double(), others.double()
    return torch.cat([torch.cdist(part, others).amin(1) for part in points.split(1024)])


def nearest_training_face(
    eval_data: EvalData, kind: str, network: str, fake: Tensor, real: Tensor, train: Tensor
) -> list[Metric]:
    """Median distance to the nearest training face, divided by that of real test faces; far below 1: memorisation."""
    if not eval_data.real.has_train or not len(train):
        return []
    rows = eval_data.export.at_full_strength(kind)
    rows = rows[evenly_spaced(len(rows), 2000)]
    real_distance = float(nearest_distance(real[:2000], train).median())
    value = float(nearest_distance(fake[eval_data.export.file[rows]], train).median()) / max(real_distance, 1e-12)
    if value < MIN_DISTANCE_RATIO:
        eval_data.alarms.append(
            f"memorisation: {kind}s have {value:.2f} of the distance of real test faces to the nearest training face"
        )
    about = f"median over that of {eval_data.real.name}, {len(train)} faces, features of {network}"
    name = f"{kind} nearest training face ({about})"
    return [Metric(f"{kind} nearest training face", name, value, "", len(rows), {"real": 1.0})]

"""Do the images lie where real faces lie? FID, KID, precision and recall, inception score, on given features."""

import math
import warnings

import torch
from torch import Tensor, nn

from evaluation.eval_data import EvalData
from evaluation.metric import SMALL, Metric

NUM_NEIGHBORS = 3  # of the k-NN balls (Kynkäänniemi et al. 1904.06991)
LEAST = 50  # images; a distribution of fewer is not looked at
CHUNK = 1024


class _Given(nn.Module):
    """Hands features through, so that torchmetrics' FID sees features that were computed once."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


def fid(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of Gaussians fitted to features (N, F) and (M, F)."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Given(a.shape[1]), normalize=False)
    metric.set_dtype(torch.float64)
    metric.update(a.double(), real=False)
    metric.update(b.double(), real=True)
    return float(metric.compute())


def inception_score(logits: Tensor, splits: int = 10) -> tuple[float, float]:
    """exp of the mean KL of p(y | x) from p(y), mean and spread over 10 splits in a fixed random order."""
    from torchmetrics.image.inception import InceptionScore

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="Metric `InceptionScore` will save all")
        torch.manual_seed(0)  # torchmetrics shuffles with the global generator
        parts = min(splits, max(1, len(logits) // 2))
        metric = InceptionScore(feature=_Given(logits.shape[1]), normalize=False, splits=parts)
        metric.update(logits.double())
        mean, spread = metric.compute()
    return float(mean), float(spread)


def _kernel_sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column sums of (a b' / F + 1)^3, in chunks of rows."""
    rows, columns = [], torch.zeros(len(b), dtype=torch.float64)
    for part in a.split(CHUNK):
        k = (part @ b.T / a.shape[1] + 1) ** 3
        rows.append(k.sum(1))
        columns += k.sum(0)
    return torch.cat(rows), columns


def kid(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Unbiased squared MMD with the cubic kernel over all pairs, and its jackknife standard error.

    Bińkowski et al. 1801.01401, with Arvesen's two-sample jackknife: every image is left out once. float64.
    """
    a, b = a.double(), b.double()
    n, m = len(a), len(b)
    own_a = ((a * a).sum(1) / a.shape[1] + 1) ** 3
    own_b = ((b * b).sum(1) / b.shape[1] + 1) ** 3
    in_a, in_b = _kernel_sums(a, a)[0] - own_a, _kernel_sums(b, b)[0] - own_b
    to_b, to_a = _kernel_sums(a, b)
    aa, bb, ab = in_a.sum(), in_b.sum(), to_b.sum()
    value = aa / (n * (n - 1)) + bb / (m * (m - 1)) - 2 * ab / (n * m)
    without_a = (aa - 2 * in_a) / ((n - 1) * (n - 2)) + bb / (m * (m - 1)) - 2 * (ab - to_b) / ((n - 1) * m)
    without_b = aa / (n * (n - 1)) + (bb - 2 * in_b) / ((m - 1) * (m - 2)) - 2 * (ab - to_a) / (n * (m - 1))
    variance = sum((k - 1) / k * (w - w.mean()).square().sum() for k, w in ((n, without_a), (m, without_b)))
    return float(value), math.sqrt(float(variance))


def _radii(x: Tensor, k: int) -> Tensor:
    """Distance of every point to its k-th neighbour (itself not counted)."""
    return torch.cat([torch.cdist(part, x).kthvalue(k + 1, dim=1).values for part in x.split(CHUNK)])


def _covered(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    """Share of points inside any ball."""
    inside = [(torch.cdist(part, centres) <= radii).any(1) for part in points.split(CHUNK)]
    return float(torch.cat(inside).double().mean())


def precision_recall(fake: Tensor, real: Tensor, k: int = NUM_NEIGHBORS) -> tuple[float, float]:
    """Share of fakes among real faces, and of real faces among fakes: balls to the k-th neighbour, float64."""
    fake, real = fake.double(), real.double()
    return _covered(fake, real, _radii(real, k)), _covered(real, fake, _radii(fake, k))


def spread(rows: Tensor, n: int) -> Tensor:
    """n of these, evenly spread."""
    return rows[torch.arange(n) * len(rows) // n]


def metrics(eval_data: EvalData) -> list[Metric]:
    """Whole and per target; beside each the same figure between two real sets of that N."""
    network, fake, real, train = eval_data.features()
    found: list[Metric] = []
    for kind in eval_data.kinds():
        rows = eval_data.export.main(kind)
        whole = compare(kind, fake[eval_data.export.file[rows]], real, train, network, eval_data.real.name)
        for metric in whole:
            metric.detail["per_target"] = {}
        for target, members in eval_data.conditions(kind).items() if whole else ():
            of_real = eval_data.real_of(target)
            if target and min(len(members), len(of_real)) >= LEAST:
                parts = compare(
                    kind, fake[eval_data.export.file[members]], real[of_real], real, network, eval_data.real.name
                )
                for metric, part in zip(whole, parts, strict=True):
                    metric.detail["per_target"][target] = {"value": part.value, "n": part.n}
        found += whole
    return found + scores(eval_data)


def compare(kind: str, fake: Tensor, real: Tensor, other: Tensor, network: str, real_name: str) -> list[Metric]:
    """FID, KID, precision, recall of `fake` against `real`, and of `other` against `real`, at one N."""
    n = min(len(fake), len(real), len(other))
    if n < LEAST:
        return []
    every = lambda x: spread(torch.arange(len(x)), n)  # noqa: E731
    fake, real, other = fake[every(fake)], real[every(real)], other[every(other)]
    prefix = "Inception-" if network.startswith("Inception") else "face-"
    where = f"N {n}, features of {network}, {real_name}"
    remarks = [f"{n} images are few for a distance of distributions (2,048 are usual)"] if n < SMALL else []
    (p, r), (p2, r2) = precision_recall(fake, real), precision_recall(other, real)
    (k, se), (k2, se2) = kid(fake, real), kid(other, real)
    made = lambda key, what, value, better, beside, **d: Metric(  # noqa: E731
        f"{kind} {prefix}{key}",
        f"{kind} {prefix}{key} ({what}{where})",
        value,
        better,
        n,
        {"real": beside},
        "",
        d,
        remarks,
    )
    return [
        made("FID", "", fid(fake, real), "low", fid(other, real)),
        made(
            "KID x 1000",
            f"standard error {1000 * se:.2f}, real {1000 * se2:.2f}, ",
            1000 * k,
            "low",
            1000 * k2,
            standard_error=1000 * se,
        ),
        made("precision", f"{NUM_NEIGHBORS} neighbours, ", p, "high", p2),
        made("recall", f"{NUM_NEIGHBORS} neighbours, ", r, "high", r2),
    ]


def attribute_score(logits: Tensor) -> float:
    """exp of the mean, over images and attributes, of KL(p(a | x) || p(a)) of each bit: 1 (nothing is read) .. 2."""
    p = logits.double().sigmoid()
    mean = p.mean(0, keepdim=True)
    term = lambda a, b: torch.special.xlogy(a, a) - torch.special.xlogy(a, b)  # noqa: E731
    return float((term(p, mean) + term(1 - p, 1 - mean)).mean().exp())


def scores(eval_data: EvalData) -> list[Metric]:
    """The inception score, for the record: of expressions, or of attributes where a judge reads nothing else."""
    found = []
    for predictions in eval_data.judges:
        k = len(predictions.classes)
        for kind in eval_data.kinds() if predictions.judge.names else ():
            logits = predictions.fake["logits"][eval_data.export.file[eval_data.export.main(kind)]]
            if len(logits) < LEAST:
                continue
            real, detail, n = predictions.real["logits"], {}, len(logits)
            if k:
                (value, wide), (beside, _) = inception_score(logits[:, :k]), inception_score(real[:, :k])
                of, detail = f"expressions of {predictions.name}, 10 splits", {"spread": wide}
            else:
                value, beside = attribute_score(logits), attribute_score(real)
                of = f"mean over {logits.shape[1]} attributes of {predictions.name}, at most 2"
            name = f"{kind} inception score ({of}, N {n}, {eval_data.real.name})"
            found.append(
                Metric(f"{kind} inception score", name, value, "", n, {"real": beside}, predictions.name, detail)
            )
    return found

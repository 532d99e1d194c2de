"""FID, KID, precision, recall and inception score on given features."""

import math
import warnings

import torch
from torch import Tensor, nn

from evaluation.eval_data import EvalData
from evaluation.folder import evenly_spaced
from evaluation.metric import FEW_IMAGES, Metric

NUM_NEIGHBORS = 3  # k of precision and recall
MIN_IMAGES = 50  # fewer images are not measured
CHUNK = 1024


class _Identity(nn.Module):
    """Returns its input, so that torchmetrics uses features that were computed before."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


def fid(a: Tensor, b: Tensor) -> float:
    """Fréchet inception distance of features (N, F) and (M, F), by torchmetrics in float64.

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium".
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Identity(a.shape[1]), normalize=False)
    metric.set_dtype(torch.float64)
    metric.update(a.double(), real=False)
    metric.update(b.double(), real=True)
    return float(metric.compute())


def inception_score(logits: Tensor, splits: int = 10) -> tuple[float, float]:
    """Inception score of logits (N, K): exp of the mean KL(p(y | x) || p(y)); mean and standard deviation over splits.

    Source: Salimans et al., "Improved Techniques for Training GANs".
    """
    from torchmetrics.image.inception import InceptionScore

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="Metric `InceptionScore` will save all")
        torch.manual_seed(0)  # torchmetrics shuffles with the global generator
        parts = min(splits, max(1, len(logits) // 2))
        metric = InceptionScore(feature=_Identity(logits.shape[1]), normalize=False, splits=parts)
        metric.update(logits.double())
        mean, std = metric.compute()
    return float(mean), float(std)


def _kernel_sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Row sums (N,) and column sums (M,) of the kernel (a b^T / F + 1)^3, in chunks of rows."""
    rows, columns = [], torch.zeros(len(b), dtype=torch.float64)
    for part in a.split(CHUNK):
        k = (part @ b.T / a.shape[1] + 1) ** 3
        rows.append(k.sum(1))
        columns += k.sum(0)
    return torch.cat(rows), columns


def kid(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Kernel inception distance of features (N, F) and (M, F), and its standard error; float64.

    The unbiased squared MMD with the cubic kernel over all pairs. The error is the two-sample jackknife: every image is
    left out once.
    Source: Bińkowski et al., "Demystifying MMD GANs".
    """
    a, b = a.double(), b.double()
    n, m = len(a), len(b)
    diagonal_a = ((a * a).sum(1) / a.shape[1] + 1) ** 3
    diagonal_b = ((b * b).sum(1) / b.shape[1] + 1) ** 3
    within_a, within_b = _kernel_sums(a, a)[0] - diagonal_a, _kernel_sums(b, b)[0] - diagonal_b
    across_a, across_b = _kernel_sums(a, b)
    aa, bb, ab = within_a.sum(), within_b.sum(), across_a.sum()
    value = aa / (n * (n - 1)) + bb / (m * (m - 1)) - 2 * ab / (n * m)
    without_a = (aa - 2 * within_a) / ((n - 1) * (n - 2)) + bb / (m * (m - 1)) - 2 * (ab - across_a) / ((n - 1) * m)
    without_b = aa / (n * (n - 1)) + (bb - 2 * within_b) / ((m - 1) * (m - 2)) - 2 * (ab - across_b) / (n * (m - 1))
    variance = sum((k - 1) / k * (w - w.mean()).square().sum() for k, w in ((n, without_a), (m, without_b)))
    return float(value), math.sqrt(float(variance))


def _radii(x: Tensor, k: int) -> Tensor:
    """(N,) distance of every point (N, F) to its k-th nearest neighbour."""
    return torch.cat([torch.cdist(part, x).kthvalue(k + 1, dim=1).values for part in x.split(CHUNK)])


def _covered(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    """Share of points (N, F) inside at least one ball."""
    inside = [(torch.cdist(part, centres) <= radii).any(1) for part in points.split(CHUNK)]
    return float(torch.cat(inside).double().mean())


def precision_recall(fake: Tensor, real: Tensor, k: int = NUM_NEIGHBORS) -> tuple[float, float]:
    """Precision and recall of features (N, F) and (M, F); float64.

    Precision: share of fake images inside the k-nearest-neighbour balls of real ones. Recall: the reverse.
    Source: Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models".
    """
    fake, real = fake.double(), real.double()
    return _covered(fake, real, _radii(real, k)), _covered(real, fake, _radii(fake, k))


def metrics(eval_data: EvalData) -> list[Metric]:
    """FID, KID, precision and recall of each kind of images, in total and per target, and the inception score."""
    network, fake, real, train = eval_data.features()
    found: list[Metric] = []
    for kind in eval_data.kinds():
        rows = eval_data.export.at_full_strength(kind)
        total = compare(kind, fake[eval_data.export.file[rows]], real, train, network, eval_data.real.name)
        for metric in total:
            metric.detail["per_target"] = {}
        for target, members in eval_data.conditions(kind).items() if total else ():
            of_real = eval_data.real_faces_with(target)
            if target and min(len(members), len(of_real)) >= MIN_IMAGES:
                parts = compare(
                    kind, fake[eval_data.export.file[members]], real[of_real], real, network, eval_data.real.name
                )
                for metric, part in zip(total, parts, strict=True):
                    metric.detail["per_target"][target] = {"value": part.value, "n": part.n}
        found += total
    return found + scores(eval_data)


def compare(kind: str, fake: Tensor, real: Tensor, other: Tensor, network: str, real_name: str) -> list[Metric]:
    """FID, KID, precision, recall of features `fake` against `real`; reference: `other` against `real`, same N."""
    n = min(len(fake), len(real), len(other))
    if n < MIN_IMAGES:
        return []
    fake, real, other = (x[evenly_spaced(len(x), n)] for x in (fake, real, other))
    prefix = "Inception-" if network.startswith("Inception") else "face-"
    setting = f"N {n}, features of {network}, {real_name}"
    warnings = [f"{n} images are few for FID and KID; use {FEW_IMAGES:,} or more"] if n < FEW_IMAGES else []
    (p, r), (p2, r2) = precision_recall(fake, real), precision_recall(other, real)
    (k, se), (k2, se2) = kid(fake, real), kid(other, real)
    make = lambda key, description, value, better, reference, **detail: Metric(  # noqa: E731
        f"{kind} {prefix}{key}",
        f"{kind} {prefix}{key} ({description}{setting})",
        value,
        better,
        n,
        {"real": reference},
        "",
        detail,
        warnings,
    )
    return [
        make("FID", "", fid(fake, real), "low", fid(other, real)),
        make(
            "KID x 1000",
            f"standard error {1000 * se:.2f}, real {1000 * se2:.2f}, ",
            1000 * k,
            "low",
            1000 * k2,
            standard_error=1000 * se,
        ),
        make("precision", f"{NUM_NEIGHBORS} neighbors, ", p, "high", p2),
        make("recall", f"{NUM_NEIGHBORS} neighbors, ", r, "high", r2),
    ]


def attribute_score(logits: Tensor) -> float:
    """Inception score of attributes: exp of the mean of KL(p(a | x) || p(a)) over images and attributes; 1 .. 2.

    logits: (N, A).
    """
    p = logits.double().sigmoid()
    mean = p.mean(0, keepdim=True)
    term = lambda a, b: torch.special.xlogy(a, a) - torch.special.xlogy(a, b)  # noqa: E731
    return float((term(p, mean) + term(1 - p, 1 - mean)).mean().exp())


def scores(eval_data: EvalData) -> list[Metric]:
    """The inception score of the expressions of each judge, or of the attributes of a judge without expressions."""
    found = []
    for predictions in eval_data.judges:
        k = len(predictions.classes)
        for kind in eval_data.kinds() if predictions.judge.names else ():
            logits = predictions.fake["logits"][eval_data.export.file[eval_data.export.at_full_strength(kind)]]
            if len(logits) < MIN_IMAGES:
                continue
            real, detail, n = predictions.real["logits"], {}, len(logits)
            if k:
                (value, std), (reference, _) = inception_score(logits[:, :k]), inception_score(real[:, :k])
                about, detail = f"expressions of {predictions.name}, 10 splits", {"std": std}
            else:
                value, reference = attribute_score(logits), attribute_score(real)
                about = f"mean over {logits.shape[1]} attributes of {predictions.name}, at most 2"
            name = f"{kind} inception score ({about}, N {n}, {eval_data.real.name})"
            found.append(
                Metric(f"{kind} inception score", name, value, "", n, {"real": reference}, predictions.name, detail)
            )
    return found

"""Disentanglement scores of codes (N, Z) against known factors (N, F).

Use them with independent factors only: no code separates correlated factors.
"""

from collections.abc import Callable

import numpy as np

NUM_BINS = 20


def discretise(values: np.ndarray, bins: int = NUM_BINS) -> np.ndarray:
    """Bin indices (N, Z) int64, bins of equal width per column; a constant column is one bin."""
    values = np.asarray(values, np.float64)
    low, high = values.min(0), values.max(0)
    width = np.where(high > low, high - low, 1.0)
    return np.minimum((values - low) / width * bins, bins - 1).astype(np.int64)


def as_classes(factors: np.ndarray, bins: int = NUM_BINS) -> np.ndarray:
    """Factors (N, F) as class indices: at most `bins` different values are classes, more are binned."""
    columns = []
    for column in np.asarray(factors).T:
        values, numbers = np.unique(column, return_inverse=True)
        columns.append(numbers.reshape(-1) if len(values) <= bins else discretise(column[:, None], bins)[:, 0])
    return np.stack(columns, 1)


def entropy(numbers: np.ndarray) -> float:
    """Entropy in nats of non-negative integers (N,)."""
    p = np.bincount(numbers) / len(numbers)
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def mutual_information(codes: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Mutual information (Z, F) in nats between the columns of class indices (N, Z) and (N, F)."""
    result = np.zeros((codes.shape[1], factors.shape[1]))
    for z in range(codes.shape[1]):
        for f in range(factors.shape[1]):
            joint = codes[:, z] * (factors[:, f].max() + 1) + factors[:, f]
            result[z, f] = entropy(codes[:, z]) + entropy(factors[:, f]) - entropy(joint)
    return result


def mig(codes: np.ndarray, factors: np.ndarray, bins: int = NUM_BINS) -> float:
    """Mutual information gap: (largest - second largest I(z; v)) / H(v), mean over factors v; in 0 .. 1.

    Codes are binned (20 bins of equal width). Constant factors are ignored.
    Source: Chen et al., "Isolating Sources of Disentanglement in Variational Autoencoders".
    """
    binned, classes = discretise(codes, bins), as_classes(factors, bins)
    information = np.sort(mutual_information(binned, classes), axis=0)
    h = np.array([entropy(column) for column in classes.T])
    second = information[-2] if len(information) > 1 else np.zeros_like(h)
    return float(((information[-1] - second)[h > 0] / h[h > 0]).mean())


def importance(codes: np.ndarray, factors: np.ndarray, penalty: float = 0.01) -> np.ndarray:
    """Importance (Z, F) >= 0: sum of |weights| of an L1 multinomial regression of each factor on standardised codes.

    penalty: weight of the L1 norm per row.
    """
    import sklearn
    from sklearn.linear_model import LogisticRegression

    # scikit-learn before 1.8 needs penalty="elasticnet" for l1_ratio.
    old = tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8)
    named = {"penalty": "elasticnet"} if old else {}
    codes = np.asarray(codes, np.float64)
    alive = codes.std(0) > 1e-8
    standard = (codes - codes.mean(0)) / np.where(alive, codes.std(0), 1.0)
    columns = []
    for column in as_classes(factors).T:
        if len(np.unique(column)) < 2:
            columns.append(np.zeros(codes.shape[1]))
            continue
        strength = 1 / (penalty * len(column))  # C is not divided by the number of rows
        model = LogisticRegression(C=strength, l1_ratio=1.0, solver="saga", tol=1e-3, random_state=0, **named)
        columns.append(np.abs(model.fit(standard, column).coef_).sum(0) * alive)
    return np.stack(columns, 1)


def dci(weights: np.ndarray) -> dict[str, float]:
    """Disentanglement D and completeness C, in 0 .. 1, of an importance matrix (Z, F).

    D: 1 - normalised entropy of the row of each code, weighted by the sum of the row. C: the same for the column of
    each factor, unweighted mean. Uniform importance gives 0, a permutation gives 1. Rows of zeros are ignored.
    Source: Eastwood and Williams, "A Framework for the Quantitative Evaluation of Disentangled Representations".
    """
    weights = np.abs(np.asarray(weights, np.float64))

    def purity(rows: np.ndarray) -> np.ndarray:
        share = rows / np.maximum(rows.sum(1, keepdims=True), 1e-12)
        h = -(share * np.log(np.maximum(share, 1e-12))).sum(1)
        return 1 - h / np.log(rows.shape[1]) if rows.shape[1] > 1 else np.ones(len(rows))

    used, predictable = weights.sum(1) > 0, weights.sum(0) > 0
    if not used.any():
        return {"D": 0.0, "C": 0.0}
    by_code, by_factor = weights[used][:, predictable], weights[used][:, predictable].T
    mass = by_code.sum(1) / by_code.sum()
    return {"D": float((purity(by_code) * mass).sum()), "C": float(purity(by_factor).mean())}


def dci_lin(codes: np.ndarray, factors: np.ndarray, penalty: float = 0.01) -> dict[str, float]:
    """DCI with `importance` of a linear model. DCI with trees gives other values, so the name is DCI-lin."""
    return dci(importance(codes, factors, penalty))


def sap_gap(scores: np.ndarray) -> float:
    """Mean over factors of (best - second best) score; scores (Z, F)."""
    ordered = np.sort(np.asarray(scores, np.float64), axis=0)
    return float((ordered[-1] - (ordered[-2] if len(ordered) > 1 else 0)).mean())


def sap(codes: np.ndarray, factors: np.ndarray) -> float:
    """SAP score, in 0 .. 1: difference between the two codes that predict a factor best, mean over factors.

    Score of a continuous factor (more than 20 values): squared correlation. Score of another factor: balanced accuracy
    of the nearest class mean on one code, scaled so that chance is 0 and perfect is 1. A constant code scores 0.
    Source: Kumar et al., "Variational Inference of Disentangled Latent Concepts from Unlabeled Observations".
    """
    codes, factors = np.asarray(codes, np.float64), np.asarray(factors, np.float64)
    return sap_gap(np.stack([_single_code_scores(codes, column) for column in factors.T], 1))


def _single_code_scores(codes: np.ndarray, factor: np.ndarray) -> np.ndarray:
    values, numbers = np.unique(factor, return_inverse=True)
    numbers = numbers.reshape(-1)
    alive = codes.std(0) > 1e-8
    if len(values) < 2:
        return np.zeros(codes.shape[1])
    if len(values) > NUM_BINS:
        centred, target = codes - codes.mean(0), factor - factor.mean()
        covariance = (centred * target[:, None]).mean(0)
        return np.where(alive, covariance**2 / np.maximum(centred.var(0) * target.var(), 1e-24), 0.0)
    means = np.stack([codes[numbers == k].mean(0) for k in range(len(values))])  # (K, Z)
    predicted = np.abs(codes[None] - means[:, None]).argmin(0)  # (N, Z)
    recall = np.stack([(predicted[numbers == k] == k).mean(0) for k in range(len(values))]).mean(0)
    chance = 1 / len(values)
    return np.where(alive, (recall - chance) / (1 - chance), 0.0)


def factor_vae_score(
    encode: Callable[[np.ndarray], np.ndarray],
    draw: Callable[[int, int, np.random.Generator], np.ndarray],
    factors: int,
    std: np.ndarray,
    votes: int = 800,
    group: int = 64,
    seed: int = 0,
) -> float:
    """FactorVAE score: accuracy with which the code of the lowest variance identifies the factor that is fixed.

    Args:
        encode: images, as `draw` returns them, -> codes (n, Z).
        draw: (factor, n, generator) -> n images with one common value of that factor and random other factors.
        factors: number of factors.
        std: (Z,) standard deviation of each code over the data; codes below 0.05 are ignored.
        votes: number of groups. group: images per group.

    Returns:
        Accuracy of the majority vote: fitted on every second vote, measured on the others; chance is 1 / factors.

    Source: Kim and Mnih, "Disentangling by Factorising".
    """
    g, alive = np.random.default_rng(seed), np.flatnonzero(np.asarray(std) > 0.05)
    if not len(alive):
        return 1 / factors
    table = np.zeros((2, len(alive), factors), np.int64)
    for vote in range(votes):
        factor = int(g.integers(factors))
        codes = np.asarray(encode(draw(factor, group, g)), np.float64)[:, alive] / np.asarray(std)[alive]
        table[vote % 2, codes.var(0).argmin(), factor] += 1
    predicted = table[0].argmax(1)
    return float(table[1][np.arange(len(alive)), predicted].sum() / max(table[1].sum(), 1))


def all_scores(codes: np.ndarray, factors: np.ndarray) -> dict[str, float]:
    """MIG, DCI-lin D and C, and SAP. The FactorVAE score needs images, so it is separate."""
    lin = dci_lin(codes, factors)
    return {"MIG": mig(codes, factors), "DCI-lin D": lin["D"], "DCI-lin C": lin["C"], "SAP": sap(codes, factors)}

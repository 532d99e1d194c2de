"""A classifier before its own bar: temperature from validation faces, accuracy and calibration on test faces."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evaluation.verification import verification

CLEAR = 0.5  # votes: a row is clear when one class has more than this share
BINS = 15  # of the calibration error


def test_metrics(method: Any, val: Any, test: Any) -> dict:
    """Plain values for `test_metrics.json`: `temperature` per head, `test` figures per head, `n`."""
    result: dict[str, Any] = {"temperature": {}, "test": {}, "n": len(test), "classes": method.classes}
    result |= {"attributes": method.attributes, "role": method.role, "dataset": method.meta["dataset"]}
    known, seen = _read(method, val), _read(method, test)
    k = len(method.classes)
    if "expression" in method.heads:
        t = temperature(known["logits"][:, :k], known["label"])
        result["temperature"]["expression"] = t
        result["test"]["expression"] = expression_metrics(
            seen["logits"][:, :k], seen["label"], t, seen.get("label_soft")
        )
    if "attributes" in method.heads:
        t = temperature_of_bits(known["logits"][:, k:], known["attr"])
        result["temperature"]["attributes"] = t
        result["test"]["attributes"] = attribute_metrics(seen["logits"][:, k:], seen["attr"])
    if "landmarks" in method.heads:
        result["test"]["landmarks"] = landmark_figures(seen["landmarks_read"], seen["landmarks"])
    if "identity" in method.heads:
        result["test"]["identity"] = verification(seen["features"], seen["identity"])
    return result


def _read(method: Any, faces: Any) -> dict[str, Tensor]:
    parts: dict[str, list[Tensor]] = {}
    for batch in faces.once(256):
        x8 = ((batch.pop("image") + 1) * 127.5).round().byte()
        found = method.everything(x8)
        found["landmarks_read"] = found.pop("landmarks", torch.empty(len(x8), 0))
        for key, value in {**batch, **found}.items():
            parts.setdefault(key, []).append(value.cpu())
    return {key: torch.cat(value) for key, value in parts.items()}


def temperature(logits: Tensor, label: Tensor) -> float:
    """T > 0 that minimises the cross-entropy of softmax(logits / T) on known rows (Guo et al. 1706.04599)."""
    known = label >= 0
    return _lowest(lambda t: F.cross_entropy(logits[known].double() / t, label[known]).item()) if known.any() else 1.0


def temperature_of_bits(logits: Tensor, attr: Tensor) -> float:
    """The same for sigmoids, one T for all attributes."""
    known = ~attr.isnan()
    right, read = attr[known].double(), logits[known].double()
    return _lowest(lambda t: F.binary_cross_entropy_with_logits(read / t, right).item()) if known.any() else 1.0


def _lowest(loss: Any) -> float:
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda log_t: loss(float(np.exp(log_t))), bounds=(-3, 3), method="bounded")
    return round(float(np.exp(found.x)), 4)


def confusion(label: Tensor, told: Tensor, classes: int) -> Tensor:
    """(K, K) counts: row = the right or requested class, column = what the judge said; unknown labels left out."""
    known = label >= 0
    return torch.bincount(label[known] * classes + told[known], minlength=classes**2).view(classes, classes)


def calibration_error(probabilities: Tensor, label: Tensor) -> float:
    """Expected calibration error of the top class in 15 bins, 0 .. 1."""
    confidence, told = probabilities.max(1)
    right, bins = (told == label).double(), (confidence * BINS).long().clamp_max(BINS - 1)
    gap = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, right - confidence.double())
    return float(gap.abs().sum() / len(label))


def expression_metrics(logits: Tensor, label: Tensor, t: float, votes: Tensor | None = None) -> dict:
    """Accuracy, its mean over classes, recall of each class, confusion matrix, calibration before and after T."""
    known = label >= 0
    logits, label = logits[known].double(), label[known]
    table = confusion(label, logits.argmax(1), logits.shape[1])
    recall = table.diag() / table.sum(1).clamp_min(1)
    metrics = {
        "accuracy": float((logits.argmax(1) == label).double().mean()),
        "macro": float(recall[table.sum(1) > 0].double().mean()),
        "recall": recall.double().tolist(),
        "confusion": table.tolist(),
        "nll": float(F.cross_entropy(logits / t, label)),
        "ece_raw": calibration_error(logits.softmax(1), label),
        "ece": calibration_error((logits / t).softmax(1), label),
        "n": len(label),
    }
    if votes is not None:
        share, winner = votes[known].max(1)
        clear = share > CLEAR
        metrics["accuracy_votes"] = float((logits.argmax(1) == winner)[clear].double().mean())
        metrics["n_votes"] = int(clear.sum())
    return metrics


def attribute_metrics(logits: Tensor, attr: Tensor) -> dict:
    """Per attribute: accuracy, area under the curve (NaN-free: None where only one side exists), share of ones."""
    from sklearn.metrics import roc_auc_score

    accuracy, auc, share = [], [], []
    for column, bits in zip(logits.T, attr.T, strict=True):
        known = ~bits.isnan()
        right, read = bits[known] > 0.5, column[known]
        both = bool(right.any()) and not bool(right.all())
        accuracy.append(float(((read > 0) == right).double().mean()) if known.any() else None)
        auc.append(float(roc_auc_score(right.numpy(), read.numpy())) if both else None)
        share.append(float(right.double().mean()) if known.any() else None)
    seen = [a for a in accuracy if a is not None]
    areas = [a for a in auc if a is not None]
    mean = lambda values: sum(values) / len(values) if values else None  # noqa: E731
    result = {"accuracy": mean(seen), "worst": min(seen, default=None), "auc": mean(areas)}
    return result | {"each_accuracy": accuracy, "each_auc": auc, "each_share": share, "n": len(attr)}


def landmark_figures(points: Tensor, truth: Tensor) -> dict:
    """NME: mean distance over the distance between the eyes' outer corners (5 points: the eyes); share above 0.1."""
    error = normalised_error(points, truth)
    error = error[error.isfinite()]
    return {"nme": float(error.mean()), "failures": float((error > 0.1).double().mean()), "n": len(error)}


def normalised_error(points: Tensor, truth: Tensor) -> Tensor:
    """(N, P, 2) twice -> (N,) mean distance in units of the true eye distance; NaN where a true point is unknown."""
    left, right = (36, 45) if truth.shape[1] == 68 else (0, 1)
    span = (truth[:, right] - truth[:, left]).norm(dim=1)
    return (points - truth).norm(dim=2).mean(1).double() / span.double().clamp_min(1e-6)


def lines(result: dict) -> list[str]:
    """The figures as text for a terminal."""
    out = [f"{result['dataset']}: {result['n']} test faces, role {result['role']}"]
    if metrics := result["test"].get("expression"):
        out.append(
            f"expression: accuracy {metrics['accuracy']:.4f}, mean over classes {metrics['macro']:.4f}, "
            f"calibration error {metrics['ece_raw']:.4f}, with temperature {result['temperature']['expression']:.3f} "
            f"{metrics['ece']:.4f}"
        )
        if "accuracy_votes" in metrics:
            out.append(
                f"  on {metrics['n_votes']} faces with a clear majority of votes: {metrics['accuracy_votes']:.4f}"
            )
        width = max(len(name) for name in result["classes"])
        out.append(
            f"  {'true / told':>{width + 2}} recall  " + " ".join(f"{name[:7]:>7}" for name in result["classes"])
        )
        for name, recall, row in zip(result["classes"], metrics["recall"], metrics["confusion"], strict=True):
            out.append(f"  {name:>{width + 2}} {recall:6.3f}  " + " ".join(f"{n:7d}" for n in row))
    if metrics := result["test"].get("attributes"):
        auc = f"{metrics['auc']:.4f}" if metrics["auc"] is not None else "-"
        out.append(f"attributes: accuracy {metrics['accuracy']:.4f}, worst {metrics['worst']:.4f}, mean AUC {auc}")
        triples = zip(result["attributes"], metrics["each_accuracy"], metrics["each_auc"], strict=True)
        pieces = [f"{n} {a:.3f}" + (f"/{u:.3f}" if u is not None else "") for n, a, u in triples if a is not None]
        out += ["  " + ", ".join(pieces[i : i + 5]) for i in range(0, len(pieces), 5)]
    if metrics := result["test"].get("landmarks"):
        out.append(f"landmarks: NME {metrics['nme']:.4f}, share above 0.1: {metrics['failures']:.4f}")
    if metrics := result["test"].get("identity"):
        out.append(
            f"identity: verified {metrics['rate']:.4f} at one false acceptance in 100; cosine of one person "
            f"{metrics['genuine']:.3f}, of two {metrics['impostor']:.3f} ({metrics['pairs']} genuine pairs)"
        )
    return out

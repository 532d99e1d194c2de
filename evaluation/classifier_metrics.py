"""Metrics of a classifier: temperatures from validation faces, accuracy and calibration on test faces."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evaluation.verification import verification
from losses.quantise import to_bytes

MAJORITY = 0.5  # share of votes above which a face has a clear class
NUM_BINS = 15  # bins of the calibration error


def test_metrics(method: Any, val: Any, test: Any) -> dict:
    """The content of `test_metrics.json`: `temperature` per head, `test` metrics per head, `n` test faces.

    Args:
        method: a trained `evaluation.classifier.Classifier`.
        val, test: `data.FaceSet`; temperatures are fitted on `val`.
    """
    result: dict[str, Any] = {"temperature": {}, "test": {}, "n": len(test), "classes": method.classes}
    result |= {"attributes": method.attributes, "role": method.role, "dataset": method.meta["dataset"]}
    val_out, test_out = _predict(method, val), _predict(method, test)
    k = len(method.classes)
    if "expression" in method.heads:
        t = temperature(val_out["logits"][:, :k], val_out["label"])
        result["temperature"]["expression"] = t
        result["test"]["expression"] = expression_metrics(
            test_out["logits"][:, :k], test_out["label"], t, test_out.get("label_soft")
        )
    if "attributes" in method.heads:
        t = attribute_temperature(val_out["logits"][:, k:], val_out["attr"])
        result["temperature"]["attributes"] = t
        result["test"]["attributes"] = attribute_metrics(test_out["logits"][:, k:], test_out["attr"])
    if "landmarks" in method.heads:
        result["test"]["landmarks"] = landmark_metrics(test_out["landmarks_predicted"], test_out["landmarks"])
    if "identity" in method.heads:
        result["test"]["identity"] = verification(test_out["features"], test_out["identity"])
    return result


def _predict(method: Any, faces: Any) -> dict[str, Tensor]:
    parts: dict[str, list[Tensor]] = {}
    for batch in faces.once(256):
        x8 = to_bytes(batch.pop("image"))
        found = method.predict(x8)
        found["landmarks_predicted"] = found.pop("landmarks", torch.empty(len(x8), 0))
        for key, value in {**batch, **found}.items():
            parts.setdefault(key, []).append(value.cpu())
    return {key: torch.cat(value) for key, value in parts.items()}


def temperature(logits: Tensor, label: Tensor) -> float:
    """Temperature T > 0 that minimises the cross-entropy of softmax(logits / T); rows with label -1 are ignored.

    Source: Guo et al., "On Calibration of Modern Neural Networks".
    """
    known = label >= 0
    return (
        _minimize_temperature(lambda t: F.cross_entropy(logits[known].double() / t, label[known]).item())
        if known.any()
        else 1.0
    )


def attribute_temperature(logits: Tensor, attr: Tensor) -> float:
    """Temperature for sigmoids, one for all attributes: logits and attr (N, A); NaN in attr is ignored."""
    known = ~attr.isnan()
    target, predicted = attr[known].double(), logits[known].double()
    return (
        _minimize_temperature(lambda t: F.binary_cross_entropy_with_logits(predicted / t, target).item())
        if known.any()
        else 1.0
    )


def _minimize_temperature(loss: Any) -> float:
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda log_t: loss(float(np.exp(log_t))), bounds=(-3, 3), method="bounded")
    return round(float(np.exp(found.x)), 4)


def confusion(label: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Confusion matrix (K, K) of counts: row = label or target, column = predicted class; label -1 is ignored."""
    known = label >= 0
    return torch.bincount(label[known] * classes + predicted[known], minlength=classes**2).view(classes, classes)


def calibration_error(probabilities: Tensor, label: Tensor) -> float:
    """Expected calibration error of the predicted class, 15 bins, in 0 .. 1; probabilities (N, K), label (N,)."""
    confidence, predicted = probabilities.max(1)
    right, bins = (predicted == label).double(), (confidence * NUM_BINS).long().clamp_max(NUM_BINS - 1)
    gap = torch.zeros(NUM_BINS, dtype=torch.float64).index_add_(0, bins, right - confidence.double())
    return float(gap.abs().sum() / len(label))


def expression_metrics(logits: Tensor, label: Tensor, t: float, votes: Tensor | None = None) -> dict:
    """Accuracy, balanced accuracy (`macro`), recall per class, confusion matrix, calibration error without and with T.

    Args:
        logits: (N, K). label: (N,), -1 is ignored. t: temperature.
        votes: (N, K) shares of the annotators; adds `accuracy_votes` on the faces with a clear majority.
    """
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
        clear = share > MAJORITY
        metrics["accuracy_votes"] = float((logits.argmax(1) == winner)[clear].double().mean())
        metrics["n_votes"] = int(clear.sum())
    return metrics


def attribute_metrics(logits: Tensor, attr: Tensor) -> dict:
    """Per attribute: accuracy, ROC AUC (None if only one value occurs), share of ones; and their means.

    logits and attr: (N, A); NaN in attr is ignored.
    """
    from sklearn.metrics import roc_auc_score

    accuracy, auc, share = [], [], []
    for column, bits in zip(logits.T, attr.T, strict=True):
        known = ~bits.isnan()
        target, logit = bits[known] > 0.5, column[known]
        both = bool(target.any()) and not bool(target.all())
        accuracy.append(float(((logit > 0) == target).double().mean()) if known.any() else None)
        auc.append(float(roc_auc_score(target.numpy(), logit.numpy())) if both else None)
        share.append(float(target.double().mean()) if known.any() else None)
    known_accuracy = [a for a in accuracy if a is not None]
    known_auc = [a for a in auc if a is not None]
    mean = lambda values: sum(values) / len(values) if values else None  # noqa: E731
    result = {"accuracy": mean(known_accuracy), "worst": min(known_accuracy, default=None), "auc": mean(known_auc)}
    return result | {"each_accuracy": accuracy, "each_auc": auc, "each_share": share, "n": len(attr)}


def landmark_metrics(points: Tensor, truth: Tensor) -> dict:
    """Normalised mean error (`nme`) and share of faces with an error above 0.1 (`failures`); points (N, P, 2)."""
    error = normalised_error(points, truth)
    error = error[error.isfinite()]
    return {"nme": float(error.mean()), "failures": float((error > 0.1).double().mean()), "n": len(error)}


def normalised_error(points: Tensor, truth: Tensor) -> Tensor:
    """(N,) mean distance of points (N, P, 2), divided by the true distance of the outer eye corners; NaN if unknown.

    With 5 points the distance of the eyes is used.
    """
    left, right = (36, 45) if truth.shape[1] == 68 else (0, 1)
    span = (truth[:, right] - truth[:, left]).norm(dim=1)
    return (points - truth).norm(dim=2).mean(1).double() / span.double().clamp_min(1e-6)


def format_test_metrics(result: dict) -> list[str]:
    """`test_metrics` as lines of text for a terminal."""
    out = [f"{result['dataset']}: {result['n']} test faces, role {result['role']}"]
    if metrics := result["test"].get("expression"):
        out.append(
            f"expression: accuracy {metrics['accuracy']:.4f}, balanced accuracy {metrics['macro']:.4f}, "
            f"calibration error {metrics['ece_raw']:.4f}, with temperature {result['temperature']['expression']:.3f} "
            f"{metrics['ece']:.4f}"
        )
        if "accuracy_votes" in metrics:
            out.append(
                f"  on {metrics['n_votes']} faces with a clear majority of votes: {metrics['accuracy_votes']:.4f}"
            )
        width = max(len(name) for name in result["classes"])
        out.append(
            f"  {'true / predicted':>{width + 2}} recall  " + " ".join(f"{name[:7]:>7}" for name in result["classes"])
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

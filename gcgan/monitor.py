"""Health checks of a training run: metrics, and a message with a remedy for each that is out of bounds.

`evaluation.monitor` counts failures.
"""

from torch import Tensor

from losses.image_metrics import sharpness

FIRST_SHARE = 0.1  # of the image steps, without checks: outputs start as the photo
LEAST_SENSITIVITY = 0.01  # change of a picture between two labels, over the pictures' deviation
MASK_RANGE = 0.005, 0.9  # of a healthy mask's mean
MOST_SHARPNESS = 1.5  # of edits, over that of real faces


def health_metrics(x: Tensor, edits: Tensor, sensitivity: Tensor, mask: Tensor | None) -> dict[str, float]:
    """Metrics of real faces x (N, C, H, H) and their edits (M, C, H, H). mask: of `model.output` mask and warp."""
    metrics = {
        "sensitivity": float(sensitivity),
        "sharpness": float(sharpness(edits).mean() / sharpness(x).mean().clamp_min(1e-12)),
    }
    return metrics if mask is None else metrics | {"mask": float(mask.mean())}


def failed_checks(metrics: dict[str, float]) -> dict[str, str]:
    """{metric: message} of metrics out of bounds. `mask` is checked if given."""
    found = {}
    if metrics["sensitivity"] < LEAST_SENSITIVITY:
        found["sensitivity"] = (
            f"the label is ignored (sensitivity {metrics['sensitivity']:.4f}): lower loss.lambda_cycle, or use "
            "model.conditioning=cin, model.critic=class+projection and loss.lambda_mismatch=1"
        )
    low, high = MASK_RANGE
    if metrics.get("mask", high) < low:
        found["mask"] = (
            f"the mask is closed (mean {metrics['mask']:.4f}), so nothing is edited: lower loss.lambda_cycle or "
            "loss.gamma_r1"
        )
    elif metrics.get("mask", high) > high:
        found["mask"] = (
            f"the mask is open everywhere (mean {metrics['mask']:.2f}), so the photo is not kept: raise "
            "loss.lambda_cycle or loss.lambda_self"
        )
    if metrics["sharpness"] > MOST_SHARPNESS:
        found["sharpness"] = (
            f"edits have {metrics['sharpness']:.2f} times the high frequencies of real faces (artefacts): lower "
            "loss.lambda_class_g, or set train.augment=translation"
        )
    return found

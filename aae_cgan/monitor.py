"""Health checks of a training run: metrics, and a message with a remedy for each that is out of bounds."""

import torch
from torch import Tensor

from aae_cgan.figures import code_std, diversity
from losses.image_metrics import sharpness

CHECKS_OF_PHASE = {  # checks that apply in a phase: those of networks that are trained by then
    "guide": (),
    "autoencode": ("prior_diversity", "edit_diversity", "code_std"),
    "gan": ("prior_diversity",),
    "joint": ("edit_accuracy", "gap_image", "prior_diversity", "edit_diversity", "sharpness", "code_std"),
}


def health_metrics(x: Tensor, z: Tensor, edits: Tensor, draws: Tensor) -> dict[str, float]:
    """Health metrics, relative to real faces.

    x (N, C, H, H): real faces with codes z (N, Z). edits (T, N, C, H, H): all faces under each of T targets. draws
    (R, K, C, H, H): R prior samples under each of K classes.
    """
    real_diversity = diversity(x, torch.zeros(len(x)))
    edit_diversity = torch.stack([torch.as_tensor(diversity(row, torch.zeros(len(row)))) for row in edits])
    prior_diversity = torch.stack([torch.as_tensor(diversity(c, torch.zeros(len(c)))) for c in draws.transpose(0, 1)])
    return {
        "edit_diversity": float(edit_diversity.mean()) / real_diversity,
        "prior_diversity": float(prior_diversity.mean()) / real_diversity,
        "sharpness": float(sharpness(edits.flatten(0, 1)).mean() / sharpness(x).mean()),
        "code_std": float(code_std(z)),
    }


def failed_checks(metrics: dict[str, float], num_classes: int) -> dict[str, str]:
    """{metric: message} of metrics out of bounds. `gap_image` and `edit_accuracy` are checked if given."""
    found = {}
    if metrics.get("edit_accuracy", 1.0) < 1.5 / num_classes:
        found["edit_accuracy"] = "the label is ignored: try model.condition_d=both and loss.lambda_guide=1"
    if metrics.get("gap_image", 0.0) < 0:
        found["gap_image"] = "edits score above real faces, the critic is too weak: raise loss.n_critic"
    if metrics["prior_diversity"] < 0.5:
        found["prior_diversity"] = (
            "prior samples are nearly equal (mode collapse): raise loss.lambda_rec or lower train.lr"
        )
    if metrics["edit_diversity"] < 0.5:
        found["edit_diversity"] = "edits of different faces are nearly equal: raise model.latent_dim or loss.lambda_rec"
    if metrics["sharpness"] > 1.5:
        found["sharpness"] = (
            "edits have more high frequencies than real faces (texture artefacts): lower loss.guide_end"
        )
    if not 0.5 < metrics["code_std"] < 2:
        found["code_std"] = "codes do not match the prior: raise loss.lambda_latent or train.lr_critic"
    return found


def checks_of_phase(found: dict[str, str], phase: str) -> dict[str, str]:
    """The failed checks that apply in a phase."""
    return {name: message for name, message in found.items() if name in CHECKS_OF_PHASE[phase]}

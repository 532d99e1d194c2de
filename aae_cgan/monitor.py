"""What goes wrong unseen: figures of a training run, and one sentence with a remedy for each that stays bad."""

import torch
from torch import Tensor

from aae_cgan.figures import diversity, sharpness

PATIENCE = 3  # samplings in a row
CHECKS_OF_PHASE = {  # what can be wrong in a phase: before the joint one, what has not been taught yet is no symptom
    "guide": (),
    "autoencode": ("draws", "rows", "code_std"),
    "gan": ("draws",),
    "joint": ("recognised", "gap_image", "draws", "rows", "sharpness", "code_std"),
}


def health_metrics(x: Tensor, z: Tensor, edits: Tensor, draws: Tensor) -> dict[str, float]:
    """Figures in units of the real faces.

    x (N, C, H, H) real faces with codes z (N, Z); edits (T, N, C, H, H), each row one request made of all faces;
    draws (R, K, C, H, H), each column one request made of R draws of the prior.
    """
    among_faces = diversity(x, torch.zeros(len(x)))
    shown = torch.stack([torch.as_tensor(diversity(row, torch.zeros(len(row)))) for row in edits])
    drawn = torch.stack([torch.as_tensor(diversity(c, torch.zeros(len(c)))) for c in draws.transpose(0, 1)])
    return {
        "rows": float(shown.mean()) / among_faces,
        "draws": float(drawn.mean()) / among_faces,
        "sharpness": sharpness(edits.flatten(0, 1)) / sharpness(x),
        "code_std": float(z.std(1).mean()),
    }


def failed_checks(signs: dict[str, float], num_classes: int) -> dict[str, str]:
    """{figure: sentence} of those out of bounds. `gap_image`, `recognised`: looked at where they are given."""
    found = {}
    if signs.get("recognised", 1.0) < 1.5 / num_classes:
        found["recognised"] = "the label is ignored: try model.condition_d=both and loss.lambda_guide=1"
    if signs.get("gap_image", 0.0) < 0:
        found["gap_image"] = "edits score above real faces, the generator outruns the critic: raise loss.n_critic"
    if signs["draws"] < 0.5:
        found["draws"] = "draws of the prior are alike (collapse): raise loss.lambda_rec or lower train.lr"
    if signs["rows"] < 0.5:
        found["rows"] = "everybody looks the same: raise model.latent_dim or loss.lambda_rec"
    if signs["sharpness"] > 1.5:
        found["sharpness"] = "edits carry more grain than photos, texture instead of expression: lower loss.guide_end"
    if not 0.5 < signs["code_std"] < 2:
        found["code_std"] = "codes have left the prior: raise loss.lambda_latent or train.lr_critic"
    return found


class Monitor:
    """Remembers how long each symptom has lasted; a resumed run counts anew, and so does a new phase."""

    def __init__(self) -> None:
        self.phase, self.lasted = "", {}

    def update(self, phase: str, found: dict[str, str]) -> list[str]:
        """Sentences to say now: those of the phase's symptoms that have just lasted `PATIENCE` times in a row."""
        before = self.lasted if phase == self.phase else {}
        self.phase, self.lasted = (
            phase,
            {name: before.get(name, 0) + 1 for name in found if name in CHECKS_OF_PHASE[phase]},
        )
        return [found[name] for name, times in self.lasted.items() if times == PATIENCE]

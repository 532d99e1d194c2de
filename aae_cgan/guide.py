"""Networks that know the expressions and pull edits towards them: one taught in this run, or one of evaluation's.

The judge is never among them: it would grade its own pupil.
"""

from typing import Any

import torch
from torch import Tensor, nn

from engine import UserError
from evaluation.manifest import weights_sha256


class Guide(nn.Module):
    """x (N, C, H, H) -> logits (N, K): taught the labels in the run's first steps, fixed from then on."""

    def __init__(self, channels: int, image_size: int, num_conditions: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        plan = ((32, 5, 2), (64, 3, 1), (64, 3, 2), (128, 3, 2), (128, 3, 1))
        for before, (after, kernel, stride) in zip([channels, 32, 64, 64, 128], plan, strict=True):
            layers += [nn.Conv2d(before, after, kernel, stride, kernel // 2), nn.BatchNorm2d(after)]
            layers.append(nn.LeakyReLU(0.1))
        side = -(-image_size // 8)
        # Not one mean over the whole map: where a brow or a mouth corner is says what it means.
        pool = max(1, side // 4)
        self.features = nn.Sequential(*layers, nn.AvgPool2d(pool))
        self.out = nn.Sequential(nn.Flatten(), nn.Dropout(0.4), nn.Linear(128 * (side // pool) ** 2, num_conditions))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.features(x)).float()

    def sha256(self) -> str:
        """Of the weights."""
        return weights_sha256(self)


class ForeignGuide(nn.Module):
    """A guide of evaluation/, opened when first used; its weights stay in its own run, their hash goes into ours."""

    def __init__(self, run: str, names: list[str]) -> None:
        super().__init__()
        self.run, self.names = run, names
        self._opened: tuple = ()  # no child: it is neither trained nor saved here
        self.register_buffer("digest", torch.zeros(32, dtype=torch.uint8))  # sha256 of its checkpoint; 0 = not yet used
        self.register_load_state_dict_post_hook(lambda *_: self._compare())

    def open(self, device: Any) -> Any:
        """The classifier. Raises UserError where there is none, or where it is a judge, or lacks a name."""
        from evaluation import classifier

        if not self._opened:
            found = classifier.load(self.run, role="guide", device=str(device))
            missing = [name for name in self.names if name not in found.names]
            if missing:
                raise UserError(f"loss.guide: {self.run} does not know {', '.join(missing)}; teach one on these data")
            self._opened = (found,)
            self._compare()
        return self._opened[0]

    def _compare(self) -> None:
        """Note which weights teach; raise UserError where others have taught before."""
        if not self._opened:
            return
        digest = bytes.fromhex(self._opened[0].origin.sha256)
        if not self.digest.any():
            self.digest.copy_(torch.tensor(list(digest), dtype=torch.uint8))
        elif bytes(self.digest.tolist()) != digest:
            raise UserError(
                f"loss.guide: {self.run} has other weights than those that taught this run; put the old ones back, or "
                "start another --run-dir"
            )

    def forward(self, x: Tensor) -> Tensor:
        guide = self.open(x.device)
        return guide(x)[:, [guide.names.index(name) for name in self.names]]

    def sha256(self) -> str:
        """Of the checkpoint that taught this run, whatever has become of it since."""
        return bytes(self.digest.tolist()).hex()

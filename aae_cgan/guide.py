"""The guide: a classifier whose cross-entropy on edits is a loss. It is trained in this run, or by evaluation/.

A judge is never a guide, because it must not measure edits that it helped to train.
"""

from typing import Any

import torch
from torch import Tensor, nn

from engine import UserError
from evaluation.manifest import weights_sha256


class Guide(nn.Module):
    """x (N, C, H, H) -> logits (N, K): trained in the run's first steps, then fixed."""

    def __init__(self, channels: int, image_size: int, num_conditions: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        plan = ((32, 5, 2), (64, 3, 1), (64, 3, 2), (128, 3, 2), (128, 3, 1))
        for before, (after, kernel, stride) in zip([channels, 32, 64, 64, 128], plan, strict=True):
            layers += [nn.Conv2d(before, after, kernel, stride, kernel // 2), nn.BatchNorm2d(after)]
            layers.append(nn.LeakyReLU(0.1))
        side = -(-image_size // 8)
        # No global average pooling: the position of brows and mouth corners matters.
        pool = max(1, side // 4)
        self.features = nn.Sequential(*layers, nn.AvgPool2d(pool))
        self.out = nn.Sequential(nn.Flatten(), nn.Dropout(0.4), nn.Linear(128 * (side // pool) ** 2, num_conditions))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.features(x)).float()

    def sha256(self) -> str:
        """Hash of the weights."""
        return weights_sha256(self)


class ExternalGuide(nn.Module):
    """A guide of evaluation/, loaded on first use. Its weights stay in its own run; only their hash is saved here."""

    def __init__(self, run: str, names: list[str]) -> None:
        super().__init__()
        self.run, self.names = run, names
        self._loaded: tuple = ()  # a tuple, so that it is not a submodule and is not saved here
        self.register_buffer("digest", torch.zeros(32, dtype=torch.uint8))  # sha256 of its checkpoint; 0 = not used yet
        self.register_load_state_dict_post_hook(lambda *_: self._check_digest())

    def open(self, device: Any) -> Any:
        """The classifier. Raises UserError if it is missing, is a judge, or lacks a label."""
        from evaluation import classifier

        if not self._loaded:
            found = classifier.load(self.run, role="guide", device=str(device))
            missing = [name for name in self.names if name not in found.names]
            if missing:
                raise UserError(f"loss.guide: {self.run} has no {', '.join(missing)}; train a guide on these data")
            self._loaded = (found,)
            self._check_digest()
        return self._loaded[0]

    def _check_digest(self) -> None:
        """Record the hash of the guide. Raises UserError if this run was trained with another guide."""
        if not self._loaded:
            return
        digest = bytes.fromhex(self._loaded[0].origin.sha256)
        if not self.digest.any():
            self.digest.copy_(torch.tensor(list(digest), dtype=torch.uint8))
        elif bytes(self.digest.tolist()) != digest:
            raise UserError(
                f"loss.guide: {self.run} has other weights than the guide of this run's first steps; "
                "restore the old ones, or start another --run-dir"
            )

    def forward(self, x: Tensor) -> Tensor:
        guide = self.open(x.device)
        return guide(x)[:, [guide.names.index(name) for name in self.names]]

    def sha256(self) -> str:
        """Hash of the checkpoint that this run was trained with."""
        return bytes(self.digest.tolist()).hex()

"""Labels of a conditional flow: y (N, K), a one-hot expression or centred attribute bits."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import UserError
from flow.config import ModelConfig
from flow.directions import shrink_blocks
from latents.directions import Moments, ols_from_moments
from losses.quantise import dequantise, to_levels

MIN_STD = 1e-3  # least deviation of a pixel, in units of v: half a grey level


class Labels(nn.Module):
    """K labels of a run; faces without labels can train too.

    An unknown expression (-1) becomes the vector of training frequencies. A known attribute bit is centred by its
    training frequency, an unknown bit (NaN) is 0.
    """

    def __init__(self, cfg: ModelConfig, meta: dict) -> None:
        super().__init__()
        self.names: list[str] = []
        self.are_classes = not cfg.condition_on
        if cfg.condition == "none":
            return
        known = meta["classes"] if self.are_classes else meta["attributes"]
        self.names = list(known) if self.are_classes else cfg.condition_on
        missing = [name for name in self.names if name not in known]
        if missing or not self.names:
            what = missing[0] if missing else "an expression"
            raise UserError(
                f"model.condition_on: {meta['dataset']} does not have {what}; it has "
                f"{', '.join([*meta['classes'], *meta['attributes']]) or 'no label'}"
            )
        self.columns = [known.index(name) for name in self.names]
        frequency = torch.full((len(self.names),), 0.5)
        if self.are_classes:
            counts = torch.tensor(meta["class_counts"]["train"], dtype=torch.float32)
            frequency = counts / counts.sum().clamp_min(1)
        self.register_buffer("frequency", frequency)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def key(self) -> str:
        """The batch key that labels come from."""
        return "label" if self.are_classes else "attr"

    def of(self, batch: dict[str, Tensor]) -> Tensor | None:
        """y (N, K) of a batch, None without labels."""
        return self.encode(batch[self.key]) if len(self) else None

    def encode(self, raw: Tensor) -> Tensor:
        """Class indices (N,), or attribute rows (N, A) in {0, 1, NaN} -> y (N, K)."""
        if self.are_classes:
            y = F.one_hot(raw.clamp_min(0), len(self)).float()
            return torch.where(raw[:, None] < 0, self.frequency, y)
        return torch.nan_to_num(raw[:, self.columns].float() - self.frequency, nan=0.0)

    def unknown(self, n: int) -> Tensor:
        """y (n, K) of faces with unknown labels."""
        y = self.frequency if self.are_classes else torch.zeros_like(self.frequency)
        return y.repeat(n, 1)

    def with_bit(self, y: Tensor, k: int, value: float | Tensor) -> Tensor:
        """y with label k set: the one-hot class k, or attribute k set to a bit."""
        if self.are_classes:
            return F.one_hot(torch.full((len(y),), k, device=y.device), len(self)).float()
        y = y.clone()
        y[:, k] = value - self.frequency[k].to(y.device)
        return y

    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        """Raw labels of a batch: (N,) classes, -1 unknown, or (N, K) bits, NaN unknown."""
        return batch["label"] if self.are_classes else batch["attr"][:, self.columns]


@torch.no_grad()
def set_label_frequencies(labels: Labels, faces: Any) -> None:
    """Set the frequencies of attribute bits from the training labels."""
    if len(labels) and not labels.are_classes:
        bits = torch.from_numpy(faces.labels["attr"]).double()[:, labels.columns]
        unlabelled = [
            name for name, known in zip(labels.names, (~bits.isnan()).any(0).tolist(), strict=True) if not known
        ]
        if unlabelled:
            raise UserError(f"model.condition_on: {unlabelled[0]} is unknown for every training face; leave it out")
        labels.frequency.copy_(bits.nanmean(0))


@torch.no_grad()
def class_mean_images(labels: Labels, faces: Any, n_bits: int, mirrored: bool) -> Tensor:
    """Mean image of each label, (K, C, H, H) in units of v, in one pass over the training set.

    For a class it is the mean image. For an attribute it is the change with the other attributes fixed (least squares),
    because attributes combine. Differences are shrunk in 4 x 4 tiles, in units of the pixels' standard deviations.
    Without this, random differences between the mean backgrounds of classes would be part of an edit.
    """
    sums, squares, count = Moments(), 0.0, torch.zeros(len(labels), 2)
    for batch in faces.once(256):
        v = dequantise(to_levels(batch["image"], n_bits), n_bits, 0.5).cpu()
        shape = v.shape[1:]
        raw = labels.targets(batch).cpu()
        if labels.are_classes:
            raw = F.one_hot(raw.clamp_min(0), len(labels)).float().masked_fill(raw[:, None] < 0, float("nan"))
        known, sides = ~raw.isnan().any(1), (v, v.flip(-1)) if mirrored else (v,)
        for side in sides:
            sums.add(side.flatten(1), raw)
            squares = squares + side[known].flatten(1).double().square().sum(0)
        count += torch.stack([(raw[known] == 0).sum(0), (raw[known] == 1).sum(0)], 1)
    mean = sums.sum_z / sums.n
    std = (squares / sums.n - mean.square()).clamp_min(MIN_STD**2).sqrt()
    if labels.are_classes:
        centre, variance = mean, 1 / count[:, 1].clamp_min(1)
        delta = sums.az / sums.sum_a[:, None].clamp_min(1) - mean
    else:
        centre, variance = torch.zeros_like(mean), (1 / count.clamp_min(1)).sum(1)
        try:
            delta = ols_from_moments(sums, names=labels.names)
        except ValueError as error:
            raise UserError(f"model.condition_on: {error}; or set model.class_mean=false") from None
    delta = shrink_blocks(delta / std, variance.double(), [tuple(shape)]) * std
    return (centre + delta).float().unflatten(1, shape)

"""Predictions of a network for many images, cached by content."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import UserError
from engine.files import atomic_write
from evaluation.folder import content_hash

CHUNK = 4096  # images in one cache file
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


def predict_all(
    judge: Any, images: Tensor, cache: Path | None, description: str, batch_size: int = 256
) -> dict[str, Tensor]:
    """`judge.predict` for images (N, C, H, W) uint8, in chunks; `cache` is their folder, None = no cache.

    The name of a cache file is a hash of the judge's weights and of the pixels. So the same images are predicted once,
    and an interrupted call continues after its last chunk.

    Args:
        description: text of the progress bar.
    """
    from tqdm import tqdm

    parts: list[dict[str, Tensor]] = []
    for chunk in tqdm(
        images.split(CHUNK), desc=f"{description}: {Path(judge.origin.run).name}", disable=None, leave=False
    ):
        path = cache / f"{judge.origin.sha256[:16]}-{content_hash(chunk)}.pt" if cache else None
        found = _load_cached(path)
        if found is None:
            found = judge.predict(chunk, batch_size)
            if path is not None:
                with atomic_write(path) as file:
                    torch.save(found, file)
        parts.append(found)
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _load_cached(path: Path | None) -> dict[str, Tensor] | None:
    if path is None or not path.is_file():
        return None
    try:
        return torch.load(path, weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError):
        path.unlink()  # damaged: predict these images again
        return None


class Inception:
    """The Inception-v3 network of torch-fidelity, as a feature network for FID and KID."""

    def __init__(self, weights: Path | None = None) -> None:
        """weights: file of the weights; default: the checkpoints folder of torch.hub.

        Raises:
            UserError: the package or the weights are missing; the message says how to get them.
        """
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError:
            raise UserError(
                '--features inception: the package torch-fidelity is missing; install it: pip install -e ".[metrics]"'
            ) from None
        path = weights or Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_URL.rpartition("/")[2]
        if not path.is_file():
            raise UserError(
                f"{path}: the weights of Inception are missing; download them once: curl -L -o {path} {INCEPTION_URL}"
            )
        self.net = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path)).eval()

    def features(self, images8: Tensor, batch_size: int = 64) -> Tensor:
        """(N, 2048) float32 features of images (N, 1 or 3, H, W) uint8; a grey image is repeated to three channels."""
        x = images8.expand(-1, 3, -1, -1) if images8.shape[1] == 1 else images8
        with torch.inference_mode():
            return torch.cat([self.net(part)[0].float() for part in x.split(batch_size)])

"""What a network says of many images, kept by content: interrupted work goes on, real images are read once."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import UserError
from engine.files import atomic_write
from evaluation.folder import content_hash

CHUNK = 4096  # images of one file of the cache
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


def read_all(judge: Any, images: Tensor, cache: Path | None, what: str, batch_size: int = 256) -> dict[str, Tensor]:
    """`judge.everything` of (N, C, H, W) uint8, in chunks that are kept under `cache`.

    A chunk's name is the hash of its pixels and of the judge's weights: the same images are never read twice, wherever
    they lie, and a call that was interrupted goes on behind its last chunk.
    """
    from tqdm import tqdm

    parts: list[dict[str, Tensor]] = []
    for chunk in tqdm(
        images.split(CHUNK), desc=f"{what} through {Path(judge.origin.run).name}", disable=None, leave=False
    ):
        path = cache / f"{judge.origin.sha256[:16]}-{content_hash(chunk)}.pt" if cache else None
        found = _kept(path)
        if found is None:
            found = judge.everything(chunk, batch_size)
            if path is not None:
                with atomic_write(path) as file:
                    torch.save(found, file)
        parts.append(found)
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _kept(path: Path | None) -> dict[str, Tensor] | None:
    if path is None or not path.is_file():
        return None
    try:
        return torch.load(path, weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError):
        path.unlink()  # damaged: it is made again
        return None


class Inception:
    """torch-fidelity's Inception network behind the one verb that figures of distributions need."""

    def __init__(self, weights: Path | None = None) -> None:
        """weights: their file; by default where torch.hub keeps downloads.

        Raises:
            UserError: the package or its weights are not there; says how to get them.
        """
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError:
            raise UserError('--features inception: needs torch-fidelity; pip install -e ".[metrics]"') from None
        path = weights or Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_URL.rpartition("/")[2]
        if not path.is_file():
            raise UserError(
                f"{path}: Inception's weights are not there; download them once: curl -L -o {path} {INCEPTION_URL}"
            )
        self.net = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path)).eval()

    def features(self, images8: Tensor, batch_size: int = 64) -> Tensor:
        """(N, 2048) of uint8 faces; grey ones are repeated to three channels."""
        x = images8.expand(-1, 3, -1, -1) if images8.shape[1] == 1 else images8
        with torch.inference_mode():
            return torch.cat([self.net(part)[0].float() for part in x.split(batch_size)])

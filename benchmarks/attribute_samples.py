"""Generated faces for the attributes of test faces, and the two baselines of that task."""

import argparse
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from a2f.editor import Editor
from a2f.sample import samples
from data import Faces
from engine.files import atomic_dir
from engine.grids import to_pil
from evaluation.manifest import Row, write_export, write_manifest

BASELINES = ("retrieval", "mean-request")


def export_system(run: Path, entry: str, n: int, seed: int, out: Path) -> Path:
    """Faces of a run for the attributes of n test faces; entry: noise or sketch."""
    editor = Editor.of(run)(run)
    with torch.no_grad():
        samples(editor, argparse.Namespace(out=out, n=n, seed=seed, split="test", entry=entry))
    return out


def requests_of_test_faces(faces: Faces, names: list[str], n: int) -> Tensor:
    """The attributes of n test faces, spread over the test set, (n, A); the same rows as `export_system` asks for."""
    n = min(n, len(faces.test))
    places = [i * len(faces.test) // n for i in range(n)]
    columns = [faces.meta["attributes"].index(name) for name in names]
    return faces.test.take(np.array(places))["attr"][:, columns].float()


def export_baseline(kind: str, requests: Tensor, names: list[str], faces: Faces, seed: int, out: Path) -> Path:
    """Answer requests (N, A) without a network.

    Args:
        kind: `retrieval`, a training face that shows the request; `mean-request`, the mean of these faces. A request
            that no training face shows takes the nearest one that some show.
        names: the attributes, columns of `requests`.
    """
    columns = [faces.meta["attributes"].index(name) for name in names]
    attr, generator, written = faces.train.labels["attr"][:, columns], np.random.default_rng(seed), []
    with atomic_dir(out) as folder:
        for number, wanted in enumerate(requests.numpy()):
            distance = np.abs(attr - wanted).sum(1)
            places = np.flatnonzero(distance == np.nanmin(distance))
            if kind == "retrieval":
                picture = faces.train.take(generator.choice(places, 1))["image"][0]
            else:
                picture = faces.train.take(places)["image"].mean(0)
            name = f"sample_{number:06d}.png"
            to_pil(picture).save(folder / name)
            target = ";".join(f"{n}={int(v > 0.5)}" for n, v in zip(names, wanted, strict=True))
            written.append(Row(name, "sample", target=target, seed=number))
        write_manifest(folder, written)
        origin = SimpleNamespace(run=kind, step=0, sha256="")
        write_export(folder, origin, faces.meta, "sample", baseline=kind, base="")
    return out

"""The mode `transfer`: faces with the expressions of other persons, for evaluation/."""

import argparse
from pathlib import Path

import numpy as np
import torch

from data import synthetic
from data.drawn_reader import DrawnFaces
from editing.editor import Editor
from editing.export import rows_of, save_all, save_sources
from editing.subjects import SPLITS, Subjects
from engine import UserError
from engine.files import atomic_dir
from evaluation.manifest import Row, write_export, write_manifest
from gcgan.editor import LandmarkEditor
from gcgan.modes import need_landmarks


def run_transfer(editor: Editor, args: argparse.Namespace) -> None:
    """Export each face with the expression of another person, once for each class.

    For drawn faces, the ground truth is the source face drawn with the driver's action units.
    """
    editor = need_landmarks(editor, "transfer")
    if args.out is None:
        raise UserError("transfer: give a folder with --out")
    faces, drivers = editor.subjects(editor.spread(args.split, args.n)), editor.split(args.split)
    drawn = DrawnFaces(editor.method.cfg.data) if editor.meta["dataset"] == "synthetic" else None
    rows: list[Row] = []
    with atomic_dir(args.out) as folder:
        common = save_sources(editor, folder, faces)
        for k, name in enumerate(editor.classes):
            places = other_persons(faces, drivers.labels, k, args.seed)
            reference = editor.take(args.split, places)
            images = editor.edit(faces, reference)[0]
            names = save_all(images, folder, f"transfer{k}", len(faces))
            about = {"target": [name] * len(faces)}
            if drawn is not None:
                about |= drawn_truth(editor, folder, drawn, faces, reference, k)
            rows += rows_of(names, "edit", common, **about)
        write_manifest(folder, rows)
        facts = editor.facts() | {"base": "source", "split": args.split}
        write_export(folder, editor.method.origin, editor.meta, "edit", guides=editor.guides(), **facts)
    print(f"wrote {len(rows)} images into {args.out}")


def other_persons(faces: Subjects, labels: dict[str, np.ndarray], k: int, seed: int) -> list[int]:
    """For each face, the index of a random face of class k in the split, of another person if persons are known."""
    random, places = np.random.default_rng([seed, k]), []
    candidates = np.flatnonzero((labels["label"] == k) & np.isfinite(labels["landmarks"]).all((1, 2)))
    persons = labels.get("identity")
    for i in range(len(faces)):
        mine = faces.batch["identity"][i].item() if persons is not None else -1
        allowed = candidates if mine < 0 else candidates[persons[candidates] != mine]
        if not len(allowed):
            raise UserError("transfer: no face of another person shows one of the classes; use another --split")
        places.append(int(random.choice(allowed)))
    return places


def drawn_truth(
    editor: LandmarkEditor, folder: Path, drawn: DrawnFaces, faces: Subjects, reference: Subjects, k: int
) -> dict[str, list[str]]:
    """Write the ground truth and its landmarks: the source's factors with the driver's action units; file names."""
    source = drawn.factors_of(faces.batch["index"].numpy())
    driver = drawn.factors_of(reference.batch["index"].numpy())
    factors = source | {"expr": driver["expr"], "au": synthetic.action_units(driver)}
    images = synthetic.render(factors, editor.meta["image_size"], editor.meta["channels"] == 1)
    truths = save_all(torch.from_numpy(images).float() / 127.5 - 1, folder, f"truth{k}", len(faces))
    names = [f"landmarks{k}_{i:06d}.npy" for i in range(len(faces))]
    for name, points in zip(names, synthetic.landmarks(factors), strict=True):
        np.save(folder / name, points)
    return {"truth": truths, "landmarks": names}


def add_transfer(parser: argparse.ArgumentParser) -> None:
    """Options of `transfer`."""
    parser.add_argument("--split", choices=SPLITS, default="test", help="which faces")
    parser.add_argument("--n", type=int, default=0, help="faces; 0: the whole split")

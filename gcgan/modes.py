"""The family's own modes: sheet, cross, transfer, embed, curve."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data import synthetic
from data.drawn_reader import DrawnFaces
from data.request import COLOURS, Request
from editing.editor import Editor
from editing.export import rows_of, save_all, save_sources
from editing.modes import add_faces
from editing.record import output_path, write_grid, write_record
from editing.subjects import SPLITS, Subjects
from engine import Grid, UserError, save_grid
from engine.files import atomic_dir, atomic_write
from evaluation.manifest import Row, write_export, write_manifest
from gcgan.editor import GCGANEditor, StarGANEditor
from gcgan.probes import knn_accuracy, same_person_nearest, shape_r2

PAGE = 4  # expressions on a page of `sheet`
NOISES = (0.0, 0.02, 0.045)  # on landmarks, in eye distances; found landmarks of small pictures are at the last
CURVES = {  # panels of `curve`, and which keys of the log belong there
    "losses": ("Loss_D", "Loss_G", "D/loss", "loss"),
    "D(x) and D(G) (probabilities; with wgan scores)": ("D/real", "D/fake_before", "D/fake_after"),
    "how much higher real faces score: than fakes, than under a wrong label": ("D/gap", "D/gap_label"),
    "weighted terms of the generator": ("G/",),
    "landmarks": ("geometry/", "D/landmarks"),
}


# Sheets.


def run_sheet(editor: Editor, args: argparse.Namespace) -> None:
    """Each face under each expression, on one sheet and on pages of four; what D says stands below each tile.

    D is the run's own critic, no judge: it was part of the training. `strip --judge` asks a judge.
    """
    faces = editor.subjects(args.images or editor.spread(args.split, args.n), args.eyes, args.source)
    if args.noise_std:
        noise = torch.randn(faces.images.shape, generator=torch.Generator().manual_seed(args.seed))
        noisy = (faces.images + args.noise_std * noise).clamp(-1, 1)
        faces = Subjects(faces.batch | {"image": noisy}, faces.names, faces.photos, given=faces.given)
    requests = sheet_requests(editor)
    names = [str(r).split(";")[0].removesuffix("=1") for r in requests]
    columns = [editor.edit(faces, request)[0] for request in requests]
    tiles = [critic_captions(editor, faces.images, own_conditions(editor, faces))]
    for request, images in zip(requests, columns, strict=True):
        tiles.append(critic_captions(editor, images, conditions_of(editor, faces, request)))
    images, captions = torch.stack([faces.images, *columns], 1), ["input", *names]
    rows = [list(row) for row in zip(*tiles, strict=True)]
    grid = Grid(images, faces.names, captions, rows)
    facts = {"faces": faces.names, "targets": names, "noise_std": args.noise_std, "critic_captions": rows}
    path = write_grid(editor, args, grid, "sheet", **facts)
    for page, start in enumerate(range(1, len(captions), PAGE) if len(captions) > PAGE + 1 else (), 1):
        at = [0, *range(start, min(start + PAGE, len(captions)))]
        part = Grid(images[:, at], faces.names, [captions[i] for i in at], [[row[i] for i in at] for row in rows])
        print(f"wrote {save_grid(part, path.with_name(f'{path.stem}_page{page}.png'))}")


def sheet_requests(editor: Editor) -> list[Request]:
    """Every class; or every attribute turned, but hair colours each instead of the others."""
    colours = {name: word for word, name in COLOURS.items() if name in editor.attributes}
    requests = [editor.parse(f"hair={word}") for word in colours.values()]
    return requests + [r for r in editor.targets() if r.names[0] not in colours]


def own_conditions(editor: Editor, faces: Subjects) -> Tensor:
    """The critic's condition for the faces as they are: c (N, cond_dim)."""
    if isinstance(editor, StarGANEditor):
        return editor.codes(faces)["c"]
    return editor.predict_labels(faces)[:, [editor.label_names().index(name) for name in editor.classes]]


def conditions_of(editor: Editor, faces: Subjects, request: Request) -> Tensor:
    """The critic's condition for the faces after an edit: c (N, cond_dim)."""
    if isinstance(editor, StarGANEditor):
        return editor.target(faces, request)["c"]
    return torch.eye(len(editor.classes))[editor.classes.index(request.names[0])].expand(len(faces), -1)


@torch.no_grad()
def critic_captions(editor: Editor, images: Tensor, c: Tensor) -> list[str]:
    """For images (N, C, H, H) under conditions c (N, cond_dim): D's score, and the class that its head reads with p."""
    critic, device = editor.method.critic, editor.device
    x, c = images.to(device), c.to(device)
    h = critic.features(x, c)
    score = critic.score(h, c).mean((1, 2))
    if editor.method.cfg.loss.gan == "logistic":
        score = score.sigmoid()
    texts = [f"D {value:.2f}" for value in score.tolist()]
    blocks = [block for block in editor.method.labels.blocks if not block.attributes]
    if critic.head is None or not blocks:
        return texts
    p, best = critic.logits(h)[:, blocks[0].columns].softmax(1).max(1)
    names = blocks[0].names
    return [f"{t} {names[k]} {v:.2f}" for t, k, v in zip(texts, best.tolist(), p.tolist(), strict=True)]


def run_cross(editor: Editor, args: argparse.Namespace) -> None:
    """Rows: persons. Columns: references. Each tile: the row's person with the column's expression."""
    editor = need_gcgan(editor, "cross")
    faces = editor.subjects(args.images or editor.spread(args.split, args.n), args.eyes)
    references = editor.subjects(args.references or editor.spread(args.split, args.n), args.eyes)
    columns = [editor.edit(faces, references.select([j]))[0] for j in range(len(references))]
    size, channels = editor.meta["image_size"], editor.meta["channels"]
    top = torch.cat([torch.ones(1, channels, size, size), references.images])[None]
    images = torch.cat([top, torch.stack([faces.images, *columns], 1)])
    captions = ["input", *references.names]
    write_grid(editor, args, Grid(images, ["reference", *faces.names], captions), "cross", faces=faces.names)


def need_gcgan(editor: Editor, mode: str) -> GCGANEditor:
    """The editor, if it takes expressions from landmarks."""
    if not isinstance(editor, GCGANEditor):
        raise UserError(f"{mode}: takes expressions from other faces, which `system: stargan` does not; train gcgan")
    return editor


# For evaluation/.


def run_transfer(editor: Editor, args: argparse.Namespace) -> None:
    """Each face with the expression of another person's face, once for each class; a folder that the judge reads.

    On drawn faces the ground truth is the source drawn with the driver's action units.
    """
    editor = need_gcgan(editor, "transfer")
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
    """For each face the place in its split of a random face of class k, of another person where persons are known."""
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
    editor: GCGANEditor, folder: Path, drawn: DrawnFaces, faces: Subjects, reference: Subjects, k: int
) -> dict[str, list[str]]:
    """Files of the ground truth and of its landmarks: the source's factors with the driver's action units."""
    source = drawn.factors_of(faces.batch["index"].numpy())
    driver = drawn.factors_of(reference.batch["index"].numpy())
    factors = source | {"expr": driver["expr"], "au": synthetic.action_units(driver)}
    images = synthetic.render(factors, editor.meta["image_size"], editor.meta["channels"] == 1)
    truths = save_all(torch.from_numpy(images).float() / 127.5 - 1, folder, f"truth{k}", len(faces))
    names = [f"landmarks{k}_{i:06d}.npy" for i in range(len(faces))]
    for name, points in zip(names, synthetic.landmarks(factors), strict=True):
        np.save(folder / name, points)
    return {"truth": truths, "landmarks": names}


# Numbers.


def run_embed(editor: Editor, args: argparse.Namespace) -> None:
    """What codes know: the expression (5 nearest codes of other persons), the person; raw landmarks beside them."""
    editor = need_gcgan(editor, "embed")
    faces = editor.subjects(editor.spread(args.split, args.n))
    points, label, person = (faces.batch[key] for key in ("landmarks", "label", "identity"))
    known = points.isfinite().all(2).all(1) & (label >= 0) & (person >= 0)
    points, label, person = points[known], label[known], person[known]
    clean, table = editor.method.standardise(points.to(editor.device)), {}
    generator = torch.Generator().manual_seed(args.seed)
    for noise in NOISES:
        drawn = torch.randn(clean.shape, generator=generator).to(clean)
        g = clean + noise / editor.method.shape_scale * drawn
        z, g = editor.method.encoder(g).cpu(), g.cpu()
        table[f"{noise:g}"] = {
            "5-NN accuracy": knn_accuracy(z, label, person),
            "5-NN accuracy of raw landmarks": knn_accuracy(g.flatten(1), label, person),
            "nearest of the class is the same person": same_person_nearest(z, label, person),
            "R2 of the person's mean shape": shape_r2(z, clean.cpu(), person),
        }
    path = output_path(editor, args, "embed", ".json")
    write_record(editor, args, path, faces=int(known.sum()), split=args.split, by_noise=table)
    for noise, figures in table.items():
        print(f"noise {noise} eye distances: " + ", ".join(f"{key} {value:.3f}" for key, value in figures.items()))
    print(f"wrote {path}")


def run_curve(editor: Editor, args: argparse.Namespace) -> None:
    """The log against steps."""
    from matplotlib.figure import Figure

    path = editor.run_dir / "log.jsonl"
    if not path.is_file():
        raise UserError(f"{path}: is missing; the run has no log")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    keys = sorted({key for row in rows for key in row})
    panels = {
        title: [key for key in keys if any(key == p or (p.endswith("/") and key.startswith(p)) for p in parts)]
        for title, parts in CURVES.items()
    }
    panels = {title: found for title, found in panels.items() if found}
    figure = Figure(figsize=(9, 2.6 * len(panels)), layout="constrained")
    for axis, (title, found) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items(), strict=True):
        for key in found:
            axis.plot(
                *zip(*((row["step"], row[key]) for row in rows if key in row), strict=True), label=key, linewidth=1
            )
        axis.set_title(title, fontsize=9)
        axis.legend(fontsize=7)
    axis.set_xlabel("steps (critic updates)")
    written = output_path(editor, args, "curve")
    with atomic_write(written) as file:
        figure.savefig(file, format="png", dpi=110)
    write_record(editor, args, written)
    print(f"wrote {written}")


def add_sheet(parser: argparse.ArgumentParser) -> None:
    """Options of `sheet`."""
    add_faces(parser, 8)
    parser.add_argument("--noise-std", type=float, default=0.0, help="noise on the inputs, of a range of 2")


def add_cross(parser: argparse.ArgumentParser) -> None:
    """Options of `cross`."""
    add_faces(parser, 7)
    parser.add_argument("--references", nargs="+", help="faces whose expressions are taken; none: --n of --split")


def add_transfer(parser: argparse.ArgumentParser) -> None:
    """Options of `transfer`."""
    parser.add_argument("--split", choices=SPLITS, default="test", help="which faces")
    parser.add_argument("--n", type=int, default=0, help="faces; 0: the whole split")


def add_embed(parser: argparse.ArgumentParser) -> None:
    """Options of `embed`."""
    parser.add_argument("--split", choices=SPLITS, default="test", help="which faces")
    parser.add_argument("--n", type=int, default=600, help="faces, spread over the split")

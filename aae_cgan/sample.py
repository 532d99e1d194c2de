"""What one does with a trained run: `python aae_cgan/sample.py MODE --run-dir runs/aae_cgan/NAME ...`.

Every mode writes a picture or a folder and, beside it, a JSON with its command, step, seed and the hash of the
weights. Where a face is asked for, give a file (your own photo) or `test:12`, a face of the run's data.
"""

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from aae_cgan.edit import class_order, strip_targets
from aae_cgan.export import add_aae_export, run_export
from aae_cgan.photos import add_edit, add_slider, add_source, run_edit, run_slider
from aae_cgan.report import add_report, run_curve, run_latent, run_report
from aae_cgan.session import Session, Subject, add_judge
from engine import Grid, UserError
from engine.cli import Mode, sample_main
from evaluation.session import add_eyes, add_faces, add_split
from evaluation.sheets import animate, square
from latents.paths import lerp


def strip(args: argparse.Namespace) -> None:
    """Generation Base, Angry ... Neutral of each face; below each tile what the judge sees."""
    session = Session(args)
    faces = session.subjects(args.images or session.fixed(args.split, args.n), args.eyes, args.source)
    x, y = torch.cat([f.x for f in faces]), torch.cat([f.y for f in faces])
    targets, names = strip_targets(session, y)  # (N, T, K)
    columns = ["Generation Base", *names]
    if args.recon:
        targets, columns = torch.cat([y[:, None], targets], 1), ["Generation Base", "Own label", *names]
    z = session.encode(x).repeat_interleave(targets.shape[1], 0)
    edited = session.decode(z, targets.flatten(0, 1)).unflatten(0, targets.shape[:2])
    grid = Grid(torch.cat([x[:, None], edited], 1), [], columns)
    facts = {"faces": [f.name for f in faces], "labels": [f.label_from for f in faces]}
    if session.judge is None:
        session.write(grid, "strip", **facts)
        return
    shown = session.verdicts(grid.images.flatten(0, 1)).unflatten(0, grid.images.shape[:2])  # (N, T + 1, K)
    grid.tiles = [[verdict(session, p) for p in row] for row in shown]
    if not session.attributes:
        print(agreement(session, faces, shown[:, -len(names) :], targets[:, -len(names) :]))
    session.write(grid, "strip", judge=str(args.judge), verdicts=grid.tiles, **facts)


def verdict(session: Session, p: Tensor) -> str:
    """`happy .97`; for attributes the bits that the judge reads as present."""
    if session.attributes:
        return " ".join(name for name, v in zip(session.names, p.tolist(), strict=True) if v > 0.5) or "none"
    best = int(p.argmax())
    return f"{session.names[best]} {p[best]:.2f}".replace("0.", ".")


def agreement(session: Session, faces: Sequence[Subject], shown: Tensor, targets: Tensor) -> str:
    """How many edited tiles the judge reads as asked, sources of that class left out."""
    asked = targets.argmax(2)
    own = torch.cat([f.y for f in faces]).argmax(1)[:, None]
    counted = asked != own
    right = int(((shown.argmax(2) == asked) & counted).sum())
    return f"the judge reads {right} of {int(counted.sum())} edits as asked (chance {1 / len(session.names):.2f})"


def prior(args: argparse.Namespace) -> None:
    """Faces of nobody: z ~ N(0, I), one row a draw under all classes, or n draws under one."""
    session = Session(args)
    z = torch.randn(args.n, session.method.cfg.model.latent_dim, generator=session.generator)
    if session.attributes:
        rows = 2.0 * torch.randint(2, (args.n, len(session.names)), generator=session.generator) - 1
        grid = square(session.decode(z, rows))
    elif args.class_name == "all":
        order = class_order(session.names)
        z = z[: -(-args.n // len(order))]
        asked = torch.eye(len(order))[order].repeat(len(z), 1)
        images = session.decode(z.repeat_interleave(len(order), 0), asked).unflatten(0, (len(z), len(order)))
        grid = Grid(images, [], [session.names[i].capitalize() for i in order])
    else:
        grid = square(session.decode(z, session.one_hot(known(session, args.class_name)).expand(args.n, -1)))
    session.write(grid, "prior", n=args.n, request=args.class_name)


def known(session: Session, name: str) -> str:
    """A class of the run; UserError otherwise."""
    if name not in session.names:
        raise UserError(f"--class {name}: this run shows {', '.join(session.names)}")
    return name


def interpolate(args: argparse.Namespace) -> None:
    """From one person to another under a fixed label."""
    session = Session(args)
    a, b = session.subjects([args.a, args.b], args.eyes)
    z = lerp(session.encode(a.x)[0], session.encode(b.x)[0], torch.linspace(0, 1, args.n))
    y = a.y if session.attributes else session.one_hot(known(session, args.class_name or "neutral"))[None]
    images = session.decode(z, y.expand(args.n, -1))
    path = session.write(Grid(images[None]), "interpolate", faces=[args.a, args.b], request=args.class_name)
    animate(images[:, None], path.with_suffix(".webp"))


def recon(args: argparse.Namespace) -> None:
    """Inputs, reconstructions under the own label, four times the error: the first n and the worst n of a split."""
    session, n = Session(args), args.n
    faces = session.split(args.split)
    errors = torch.cat([session.error(b["image"], session.labels(b)[0]) for b in faces.once(256)])
    level = 10 * torch.log10(4 / errors.clamp_min(1e-10))  # dB
    chosen = torch.cat([torch.arange(min(n, len(level))), level.argsort()[:n]])
    batch = faces.take(chosen.numpy())
    x = batch["image"]
    x_hat = session.decode(session.encode(x), session.labels(batch)[0])
    images = torch.stack([x, x_hat, (2 * (x - x_hat).abs() - 1).clamp(max=1)])
    captions = [f"{kind} {level[i]:.1f} dB" for kind, i in zip(["first"] * n + ["worst"] * n, chosen, strict=False)]
    grid = Grid(images, ["input", "G(E(x), y)", "error x 4"], captions)
    session.write(grid, "recon", split=args.split, images=len(level), psnr=round(level.mean().item(), 3))
    print(f"PSNR {level.mean():.2f} dB over {len(level)} {args.split} faces")


def _add_strip(parser: argparse.ArgumentParser) -> None:
    add_faces(parser, 8)
    add_source(parser)
    add_judge(parser)
    parser.add_argument("--recon", action="store_true", help="a column with the own label too")


def _add_prior(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--n", type=int, default=64, help="faces")
    parser.add_argument("--class", dest="class_name", default="all", help="one expression, or all of them side by side")


def _add_interpolate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", help="a file, or test:N")
    parser.add_argument("b", help="a file, or test:N")
    parser.add_argument("--n", type=int, default=9, help="steps")
    parser.add_argument("--class", dest="class_name", help="the expression that both wear; neutral where not given")
    add_eyes(parser)


def _add_recon(parser: argparse.ArgumentParser) -> None:
    add_split(parser)
    parser.add_argument("--n", type=int, default=8, help="faces of each kind")


MODES = {
    "strip": Mode(strip, "Generation Base, then each expression, and what a judge sees", _add_strip),
    "edit": Mode(run_edit, "change the expression of faces, also of your own photo", add_edit),
    "slider": Mode(run_slider, "an expression from none to more than asked, as strip and animation", add_slider),
    "prior": Mode(prior, "faces from nothing, under each expression", _add_prior),
    "interpolate": Mode(interpolate, "from one person to another", _add_interpolate),
    "recon": Mode(recon, "inputs and reconstructions, the worst among them", _add_recon),
    "latent": Mode(run_latent, "codes against the prior, in numbers", add_split),
    "curve": Mode(run_curve, "the losses against batches, phases shaded"),
    "export": Mode(run_export, "folders of images that evaluation/ reads", add_aae_export),
    "report": Mode(run_report, "reconstruction, diversity, sharpness, and with a judge the confusion", add_report),
}


def main(argv: list[str] | None = None) -> None:
    sample_main(MODES, __doc__.splitlines()[0], argv)


if __name__ == "__main__":
    main()

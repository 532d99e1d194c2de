"""What one does with a trained VAE: `python vae/sample.py MODE --run-dir runs/vae/NAME ...`.

Every mode writes a picture and, beside it, a JSON with its command, step, seed and the hash of the weights. Where a
face is asked for, give a file (your own photo) or `test:12`, a face of the run's data.
"""

import argparse

import torch
from torch import Tensor

from data.labels import label_names
from engine import Grid, UserError
from engine.cli import Mode, sample_main
from evaluation.session import add_split, spread
from evaluation.sheets import animate, square
from latents.area import area
from latents.paths import lerp, slerp
from losses.gaussian import kl_standard_normal
from vae.cards import add_vectors, run_vectors
from vae.dfi import add_dfi, run_dfi
from vae.edit import add_edit, run_edit
from vae.export import add_vae_export, run_export
from vae.prior import DENSITIES, draw_codes
from vae.report import add_report, run_report
from vae.session import Session, rows_with
from vae.sweep import add_sweep, run_sweep


def prior(args: argparse.Namespace) -> None:
    """Faces that were never seen: codes from N(0, I), or from a mixture fitted to the training codes."""
    session = Session(args)
    z = draw_codes(session, args.n, args.density) * args.temperature
    session.write(square(session.decode(z)), "prior", density=args.density, n=args.n)


def recon(args: argparse.Namespace) -> None:
    """Inputs, reconstructions from mu, four times the absolute error: n spread over a split and its worst n."""
    session, n = Session(args), args.n
    faces = session.split(args.split)
    errors = torch.cat([session.error(batch["image"]) for batch in faces.once(256, session.device)])  # (N,) mse
    level = 10 * torch.log10(4 / errors.clamp_min(1e-10))
    chosen = torch.cat([torch.from_numpy(spread(n, len(level))), level.argsort()[:n]])
    x = faces.take(chosen.numpy(), session.device)["image"]
    x_hat = session.reconstruct(x)
    images = torch.stack([x.cpu(), x_hat, (2 * (x.cpu() - x_hat).abs() - 1).clamp(max=1)])
    captions = [f"{value:.1f} dB" for value in level[chosen].tolist()]
    captions[-n:] = [f"worst\n{caption}" for caption in captions[-n:]]
    grid = Grid(images, ["input", "from mu", "error x 4"], captions)
    session.write(grid, "recon", split=args.split, images=len(level), psnr=round(level.mean().item(), 3))
    print(f"PSNR {level.mean():.2f} dB over {len(level)} {args.split} faces, unweighted")


def traverse(args: argparse.Namespace) -> None:
    """One face; each row moves one latent, in the order of their KL, named by what it tells best."""
    session = Session(args)
    code = session.code_of(args.image)[0]
    codes = session.codes("val")
    kl = torch.cat([kl.cpu() for kl in kl_of(session, "val")]).mean(0)
    order = kl.argsort(descending=True)
    dims = order if args.dims == "all" else order[: int(args.dims)]
    grid = session.method.traversal(code.to(session.device), dims.to(session.device), args.range)
    names, rows = label_names(session.meta), []
    for d in dims.tolist():
        scores = {n: area(codes.mu[:, d], codes.labels[:, c]) for c, n in enumerate(names)}
        known = {n: max(v, 1 - v) for n, v in scores.items() if v == v}
        best = max(known, key=known.get) if known else ""
        rows.append(f"z{d}  {kl[d]:.1f} nats\n{best} {known[best]:.2f}" if best else f"z{d}  {kl[d]:.1f} nats")
    path = session.write(Grid(grid.images.cpu(), rows, grid.columns), "traverse", image=args.image)
    animate(grid.images.transpose(0, 1).cpu(), path.with_suffix(".webp"))  # (K, R, ...): all rows at one value


def kl_of(session: Session, split: str) -> list[Tensor]:
    """KL per face and latent, in batches."""
    encoder = session.method.ema_encoder
    with torch.inference_mode():
        return [kl_standard_normal(*encoder(b["image"])) for b in session.split(split).once(256, session.device)]


def average(args: argparse.Namespace) -> None:
    """The average person without and with a feature: decoded mean codes, and their signed difference."""
    session = Session(args)
    codes, names = session.codes("train"), label_names(session.meta)
    given, said = rows_with(codes, session.meta, args.given)
    if args.attr == ["all"]:
        sides = [(name, given & (codes.labels[:, names.index(name)] == 1)) for name in session.meta["classes"]]
        if not sides:
            raise UserError(f"--attr all: {session.meta['dataset']} has no expressions; name attributes instead")
        codes_of, counts = mean_faces([rows for _, rows in sides], codes.mu, args.equal_counts, session.generator)
        columns = [f"{name} n {n}" for (name, _), n in zip(sides, counts, strict=True)]
        session.write(Grid(session.decode(codes_of)[None], [said.strip(", ")], columns), "average", given=args.given)
        return
    rows, captions = [], []
    for request in args.attr:
        with_rows, _ = rows_with(codes, session.meta, [request])
        without_rows = rows_with(codes, session.meta, [opposite(request)])[0]
        ends, counts = mean_faces(
            [given & without_rows, given & with_rows], codes.mu, args.equal_counts, session.generator
        )
        images = session.decode(ends)
        rows.append(torch.cat([images, (images[1:] - images[:1]).clamp(-1, 1)]))
        captions.append(f"{request}{said}\nn {counts[0]} and {counts[1]}")
    grid = Grid(torch.stack(rows), captions, ["without", "with", "difference"])
    session.write(grid, "average", attr=args.attr, given=args.given, equal_counts=args.equal_counts)


def opposite(request: str) -> str:
    """Smiling -> Smiling=0; Smiling=0 -> Smiling=1."""
    name, _, value = request.partition("=")
    return f"{name}={1 if value == '0' else 0}"


def mean_faces(sides: list[Tensor], mu: Tensor, equal: bool, generator: torch.Generator) -> tuple[Tensor, list[int]]:
    """Mean codes (K, Z) of K sets of rows (N,) bool, and their sizes; `equal`: of the smallest one's size, by lot."""
    rows = [torch.nonzero(side).flatten() for side in sides]
    smallest = min(len(r) for r in rows)
    if smallest == 0:
        raise UserError("--attr, --given: no training face on one side; ask for less at once")
    if equal:
        rows = [r[torch.randperm(len(r), generator=generator)[:smallest]] for r in rows]
    return torch.stack([mu[r].mean(0) for r in rows]), [len(r) for r in rows]


def interpolate(args: argparse.Namespace) -> None:
    """A walk between two codes, or a sheet between four: a straight line, an arc for draws of the prior."""
    session, n = Session(args), args.n
    if args.prior:
        corners, path = draw_codes(session, 4 if args.corners == 4 else 2, "normal"), slerp
    else:
        if len(args.faces) not in (2, 4):
            raise UserError(f"interpolate: expected two or four faces (files or test:12), got {len(args.faces)}")
        corners, path = torch.cat([session.code_of(face) for face in args.faces]), lerp
    t = torch.linspace(0, 1, n)
    if len(corners) == 4:
        left, right = path(corners[0], corners[2], t), path(corners[1], corners[3], t)
        z = path(left, right, t[:, None]).transpose(0, 1)  # (row, column, Z)
    else:
        z = path(corners[0], corners[1], t)[None]
    images = session.decode(z.flatten(0, 1)).unflatten(0, z.shape[:2])
    written = session.write(Grid(images), "interpolate", faces=args.faces, prior=args.prior)
    animate(images.flatten(0, 1)[:, None], written.with_suffix(".webp"), back=len(corners) == 2)


def _add_prior(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--n", type=int, default=64, help="faces")
    parser.add_argument("--density", choices=DENSITIES, default="normal", help="of the codes")
    parser.add_argument("--temperature", type=float, default=1.0, help="codes are multiplied by it")


def _add_recon(parser: argparse.ArgumentParser) -> None:
    add_split(parser)
    parser.add_argument("--n", type=int, default=8, help="faces of each kind")


def _add_traverse(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", default="test:0", help="a file, or test:N")
    parser.add_argument("--dims", default="8", help="how many latents, or all")
    parser.add_argument("--range", type=float, default=3.0, help="each goes from -range to range")


def _add_average(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--attr", nargs="+", required=True, help="features, or all: the average expressions")
    parser.add_argument("--given", nargs="*", default=[], help="only faces with these, as Male=1")
    parser.add_argument("--equal-counts", action="store_true", help="as many faces on both sides, by lot")


def _add_interpolate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("faces", nargs="*", help="two or four: files, or test:N")
    parser.add_argument("--n", type=int, default=9, help="steps along a side")
    parser.add_argument("--prior", action="store_true", help="between draws of the prior")
    parser.add_argument("--corners", type=int, choices=[2, 4], default=2, help="with --prior")


MODES = {
    "prior": Mode(prior, "faces from nothing", _add_prior),
    "recon": Mode(recon, "inputs and reconstructions, the worst among them", _add_recon),
    "traverse": Mode(traverse, "what each latent does to a face", _add_traverse),
    "vectors": Mode(run_vectors, "attribute directions and their card", add_vectors),
    "average": Mode(average, "the average person with and without a feature", _add_average),
    "edit": Mode(run_edit, "change a face, also your own photo", add_edit),
    "interpolate": Mode(interpolate, "a walk between faces", _add_interpolate),
    "dfi": Mode(run_dfi, "deep feature interpolation as published, beside the VAE's edit", add_dfi),
    "sweep": Mode(run_sweep, "one run a beta: rate against distortion", add_sweep),
    "report": Mode(run_report, "distortion, rate, readability, entanglement in figures", add_report),
    "export": Mode(run_export, "folders of images that evaluation/ reads", add_vae_export),
}


def main(argv: list[str] | None = None) -> None:
    sample_main(MODES, __doc__.splitlines()[0], argv)


if __name__ == "__main__":
    main()

"""Use a trained VAE: `python vae/sample.py MODE --run-dir runs/vae/NAME ...`.

Every mode writes an image, and beside it a JSON with command, step, seed and the hash of the weights. A face is a file
(your own photo), `test:12` (a face of the run's data) or `seed:7` (a generated face).

"""

import argparse

import torch
from torch import Tensor

from data.request import parse_request
from editing.cli import Mode, sample_main
from editing.record import write_grid
from editing.sheets import animate
from engine import Grid, UserError
from latents.roc_auc import roc_auc
from losses.gaussian import kl_standard_normal
from vae.attributes import Codes
from vae.dfi import add_dfi, run_dfi
from vae.editor import Editor
from vae.report import add_report, run_report
from vae.vectors import add_vectors, run_vectors


def traverse(editor: Editor, args: argparse.Namespace) -> None:
    """One face; each row varies one latent, sorted by KL and labelled with the attribute that it predicts best."""
    code = editor.codes(editor.subjects([args.image], args.eyes))["z"][0]
    codes = editor.training_codes("val")
    kl = torch.cat(kl_of(editor, "val")).mean(0)
    order = kl.argsort(descending=True)
    dims = order if args.dims == "all" else order[: int(args.dims)]
    grid = editor.method.traversal(code.to(editor.device), dims.to(editor.device), args.range)
    names, rows = editor.label_names(), []
    for d in dims.tolist():
        scores = {n: roc_auc(codes.mu[:, d], codes.labels[:, c]) for c, n in enumerate(names)}
        known = {n: max(v, 1 - v) for n, v in scores.items() if v == v}
        best = max(known, key=known.get) if known else ""
        rows.append(f"z{d}  {kl[d]:.1f} nats\n{best} {known[best]:.2f}" if best else f"z{d}  {kl[d]:.1f} nats")
    path = write_grid(editor, args, Grid(grid.images.cpu(), rows, grid.columns), "traverse", image=args.image)
    animate(grid.images.transpose(0, 1).cpu(), path.with_suffix(".webp"))  # (K, R, ...): all rows at one value


def kl_of(editor: Editor, split: str) -> list[Tensor]:
    """KL per face and latent, one tensor per batch, on the CPU."""
    encoder = editor.method.ema_encoder
    return [kl_standard_normal(*encoder(b["image"])).cpu() for b in editor.split(split).once(256, editor.device)]


def average(editor: Editor, args: argparse.Namespace) -> None:
    """Decoded mean codes of faces without and with an attribute, and their signed difference."""
    codes, names = editor.training_codes("train"), editor.label_names()
    generator = torch.Generator().manual_seed(args.seed)
    given, caption = rows_with(editor, codes, args.given)
    if args.attr == ["all"]:
        sides = [(name, given & (codes.labels[:, names.index(name)] == 1)) for name in editor.classes]
        if not sides:
            raise UserError(f"--attr all: {editor.meta['dataset']} has no expressions; give attributes instead")
        z, counts = mean_faces([rows for _, rows in sides], codes.mu, args.equal_counts, generator)
        columns = [f"{name} n {n}" for (name, _), n in zip(sides, counts, strict=True)]
        grid = Grid(editor.images({"z": z})[None], [caption.strip(", ")], columns)
        write_grid(editor, args, grid, "average", given=args.given)
        return
    rows, captions = [], []
    for request in args.attr:
        with_rows, without_rows = (rows_with(editor, codes, [text])[0] for text in (request, opposite(request)))
        ends, counts = mean_faces([given & without_rows, given & with_rows], codes.mu, args.equal_counts, generator)
        images = editor.images({"z": ends})
        rows.append(torch.cat([images, (images[1:] - images[:1]).clamp(-1, 1)]))
        captions.append(f"{request}{caption}\nn {counts[0]} and {counts[1]}")
    grid = Grid(torch.stack(rows), captions, ["without", "with", "difference"])
    write_grid(editor, args, grid, "average", attr=args.attr, given=args.given, equal_counts=args.equal_counts)


def rows_with(editor: Editor, codes: Codes, requests: list[str]) -> tuple[Tensor, str]:
    """Mask (N,) of the faces that fulfil all `requests` (Smiling, Male=0, happy), and a caption."""
    names, rows, caption = editor.label_names(), torch.ones(len(codes.mu), dtype=torch.bool), ""
    for text in requests:
        request = parse_request(text if "=" in text else f"{text}=1", editor.classes, editor.attributes)
        for item in request.require("set", method="a group of faces"):
            rows &= codes.labels[:, names.index(item.name)] == item.value
            caption += f", {item.name}" if item.value else f", not {item.name}"
    return rows, caption


def opposite(request: str) -> str:
    """Smiling -> Smiling=0; Smiling=0 -> Smiling=1."""
    name, _, value = request.partition("=")
    return f"{name}={1 if value == '0' else 0}"


def mean_faces(sides: list[Tensor], mu: Tensor, equal: bool, generator: torch.Generator) -> tuple[Tensor, list[int]]:
    """Mean codes (K, Z) of K masks (N,), and their sizes. `equal`: random subsets of the smallest size."""
    rows = [torch.nonzero(side).flatten() for side in sides]
    smallest = min(len(r) for r in rows)
    if smallest == 0:
        raise UserError("--attr, --given: no training face fits one side; use fewer conditions")
    if equal:
        rows = [r[torch.randperm(len(r), generator=generator)[:smallest]] for r in rows]
    return torch.stack([mu[r].mean(0) for r in rows]), [len(r) for r in rows]


def _add_traverse(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", default="test:0", help="a photo, test:N or seed:N")
    parser.add_argument("--eyes", help="x1,y1,x2,y2 of a photo in px, or whole; none: look for the face")
    parser.add_argument("--dims", default="8", help="number of latents, or all")
    parser.add_argument("--range", type=float, default=3.0, help="each goes from -range to range")


def _add_average(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--attr", nargs="+", required=True, help="attributes, or all: every expression")
    parser.add_argument("--given", nargs="*", default=[], help="only faces that fulfil these, as Male=1")
    parser.add_argument("--equal-counts", action="store_true", help="random subsets of equal size")


MODES = {
    "traverse": Mode(traverse, "vary each latent of a face", _add_traverse),
    "vectors": Mode(run_vectors, "fit attribute directions, and show their effect and quality", add_vectors),
    "average": Mode(average, "average faces with and without an attribute", _add_average),
    "dfi": Mode(run_dfi, "deep feature interpolation, beside the VAE's edit", add_dfi),
    "report": Mode(run_report, "distortion, rate, label prediction, leakage, disentanglement", add_report),
}


def main(argv: list[str] | None = None) -> None:
    sample_main(Editor, MODES, __doc__.splitlines()[0], argv)


if __name__ == "__main__":
    main()

"""Modes of `sample.py` that change faces: edit, transfer, interpolate."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from data.photo import AlignedFace, change_mask, paste
from data.request import Request, parse_names, parse_request
from engine import Grid, UserError
from engine.grids import save_image
from evaluation.session import add_eyes, add_faces, take_images
from evaluation.sheets import animate, blocks, strip_of
from flow.directions import Directions
from flow.edit import CodedPhoto, decode_photo, encode_photo, level_mask, move, transfer
from flow.mover import Mover
from flow.neighbours import Neighbours
from flow.session import BATCH, Chosen, Session
from latents.paths import slerp

GAIN = 1.6  # of a direction, as in openai/glow
TRANSFER_GAIN = 1.5
NEIGHBOURS = 400


def open_mover(session: Session, args: argparse.Namespace, kind: str, gain: float | None, chosen: Chosen) -> Mover:
    """A mover as the command line asks for it; `chosen`: the faces that will be moved (local directions need them)."""
    directions: Directions = session.directions("mean" if kind == "mean" else "ols")
    levels, count = args.levels.split(",") if args.levels else [], len(session.flow.levels)
    if not set(word.strip() for word in levels) <= {str(n) for n in range(1, count + 1)}:
        raise UserError(f"--levels {args.levels}: expected numbers from 1 (finest) to {count}, as 1,{count}")
    levels = [int(word) for word in levels]
    return Mover(
        session.flow,
        directions,
        session.meta,
        gain=gain,
        keep=parse_names(args.keep, session.meta["classes"], session.meta["attributes"]),
        mask=level_mask(session.flow, levels, torch.device("cpu")) if levels else None,
        local=Neighbours(session, directions, chosen.x, chosen.table, args.k) if kind == "local" else None,
    )


def gain_of(text: str) -> float | None:
    """A number, or None for `auto`."""
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--gain {text}: expected a number or auto") from None


def edited(
    session: Session, args: argparse.Namespace, chosen: Chosen, request: Request, shares: Sequence[float] = (1.0,)
) -> tuple[Tensor, dict]:
    """Faces moved by shares of the whole move: (len(shares), N, C, H, H), on the CPU; and how they were moved.

    `--kind auto`: under another label where the run was told all that is asked for, else along directions.
    """
    kind = args.kind
    if kind == "auto":
        kind = "transfer" if {wish.name for wish in request} <= set(session.labels.names) else "ols"
    y = session.y_from(chosen.x, chosen.table)
    if kind == "transfer":
        return relabelled(session, args, chosen, y, request, shares)
    gain = gain_of(args.gain or str(GAIN))
    mover = open_mover(session, args, kind, gain, chosen)
    codes = torch.cat([photo.code.flat().cpu() for _, photo in session.coded(chosen.x, y)])
    step = mover.step(codes, chosen.table, request)
    parts = []
    for rows, photo in session.coded(chosen.x, y):
        mine = step[rows].to(session.device)
        parts.append(torch.stack([move(session.flow, photo, s * mine, session.n_bits).cpu() for s in shares]))
    facts = {"kind": kind, "gain": "auto" if gain is None else gain, "keep": list(args.keep)}
    return torch.cat(parts, 1), facts | {"levels": args.levels or "all"}


def relabelled(
    session: Session,
    args: argparse.Namespace,
    chosen: Chosen,
    y: Tensor | None,
    request: Request,
    shares: Sequence[float],
) -> tuple[Tensor, dict]:
    """`edited` for faces that keep their code and change their label."""
    require_labels(session)
    if args.keep or args.levels:
        raise UserError("--keep and --levels act on directions, and this edit exchanges the label; use --kind ols")
    gain = gain_of(args.gain or str(TRANSFER_GAIN))
    if gain is None:
        raise UserError("--gain auto: reads codes and moves along directions; a transfer takes a number")
    target = target_labels(session, y, request)
    images = [transferred(session, chosen.x, y, target, share * gain) for share in shares]
    return torch.stack(images), {"kind": "transfer", "gain": gain}


def target_labels(session: Session, y: Tensor, request: Request) -> Tensor:
    """The labels (N, K) that faces with labels y, all known or read, are asked to have."""
    request.require("set", "amount", "flip", method="transfer")
    names = session.labels.names
    for wish in request:
        if wish.name not in names:
            raise UserError(f"{wish.name}: the run was told {', '.join(names)} only; use --kind ols")
        if not wish.is_class:
            k = names.index(wish.name)
            now = (y[:, k] + session.labels.frequency[k].to(y.device)).round()
            y = session.labels.with_bit(y, k, 1 - now if wish.form == "flip" else float(wish.value))
            continue
        if wish.form == "flip" or (wish.value == 0 and "neutral" not in names):
            raise UserError(f"{wish}: an expression is left for another; ask for that one")
        name, amount = ("neutral", 1.0) if wish.value == 0 else (wish.name, float(wish.value))
        y = y + amount * (session.labels.with_bit(y, names.index(name), 1.0) - y)
    return y


def run_edit(args: argparse.Namespace) -> None:
    """Edit files or faces of the data; write a grid and, for files, the whole photo."""
    session = Session(args)
    take_images(args.attr, args.images)
    take_images(args.keep, args.images)
    request = parse_request(args.attr, session.meta["classes"], session.meta["attributes"])
    chosen = session.faces_of(args.images, args.split, args.n, args.eyes)
    shares = strip_of(args.strip) if args.strip else [1.0]
    images, facts = edited(session, args, chosen, request, shares)  # (T, N, C, H, H)
    facts |= {"attr": str(request), "faces": chosen.names}
    if args.strip:
        path = session.write(Grid(images.transpose(0, 1), [], [f"{s:+.2g}" for s in shares]), "edit", **facts)
        animate(images, path.with_suffix(".webp"))
        return
    after = images[0]
    path = session.write(blocks([chosen.x, after], ["input", str(request)]), "edit", **facts)
    write_photos(chosen, after, path)


def write_photos(chosen: Chosen, after: Tensor, beside: Path) -> None:
    """The edit of each file in its photo, at the photo's own size; what did not change stays the photo's."""
    for i, (name, photo) in enumerate(zip(chosen.names, chosen.photos, strict=True)):
        if isinstance(photo, AlignedFace):
            mask = change_mask(chosen.x[i : i + 1], after[i : i + 1])
            again = sum(Path(other).stem == Path(name).stem for other in chosen.names[:i])  # a/me.jpg, b/me.jpg
            path = beside.with_name(f"{beside.stem}_{Path(name).stem}{f'_{again + 1}' if again else ''}.png")
            save_image(paste(photo, after[i : i + 1], mask), path)
            print(f"wrote {path}")


def run_transfer(args: argparse.Namespace) -> None:
    """One row a face, one column an expression (or attribute turned on): the same code under another label."""
    session = Session(args)
    require_labels(session)
    take_images(args.to, args.images)
    names = label_choice(session, args.to)
    chosen = session.faces_of(args.images, args.split, args.n, args.eyes)
    y = session.y_from(chosen.x, chosen.table)
    if args.source:
        (source,) = label_choice(session, [args.source])
        y = session.labels.with_bit(y, session.labels.names.index(source), 1.0)
    for name, mine in zip(chosen.names, y, strict=True):
        if session.labels.are_classes and chosen.photos[chosen.names.index(name)] is not None:
            print(f"{name}: taken for {session.labels.names[int(mine.argmax())]}")
    targets = [session.labels.with_bit(y, session.labels.names.index(name), 1.0) for name in names]
    columns = [transferred(session, chosen.x, y, target, args.gain) for target in targets]
    grid = Grid(torch.stack([chosen.x, *columns], 1), chosen.names, ["input", *names])
    path = session.write(grid, "transfer", to=names, gain=args.gain, faces=chosen.names)
    for name, column in zip(names, columns, strict=True):
        write_photos(chosen, column, path.with_name(f"{path.stem}_{name}.png"))


def transferred(session: Session, x: Tensor, y: Tensor, y_target: Tensor, gain: float) -> Tensor:
    """Faces x under y carried to y_target -> (N, C, H, H), on the CPU."""
    parts = []
    for rows, photo in session.coded(x, y):
        target = y_target[rows].to(session.device)
        parts.append(transfer(session.flow, photo, target, gain, session.n_bits).cpu())
    return torch.cat(parts)


def require_labels(session: Session) -> None:
    """Raise UserError for a run without labels."""
    if not len(session.labels):
        raise UserError(
            f"{session.dir}: was trained without labels (model.condition=none), so it has no classes to carry a face "
            "to; `sample.py edit` moves along directions instead"
        )


def label_choice(session: Session, words: list[str]) -> list[str]:
    """Names of labels that the run is conditioned on; `all` or nothing = all of them."""
    if not words or words == ["all"]:
        return session.labels.names
    known = session.labels.names
    return parse_names(words, *((known, ()) if session.labels.are_classes else ((), known)))


def run_interpolate(args: argparse.Namespace) -> None:
    """A walk between two faces, or a sheet between four, on arcs level by level; --mix: A's coarse, B's fine levels."""
    session = Session(args)
    if len(args.faces) not in (2, 4):
        raise UserError(f"interpolate: expected two or four faces (files or test:12), got {len(args.faces)}")
    if args.mix and (len(args.faces) > 2 or len(session.flow.levels) < 2):
        raise UserError("--mix: mixes the levels of two faces, A and B; give two, to a run of at least two levels")
    chosen = session.faces_of(args.faces, "test", 0, args.eyes)
    y = session.y_from(chosen.x, chosen.table)
    mine = None if y is None else y.to(session.device)
    photo = encode_photo(session.flow, chosen.x.to(session.device), session.n_bits, mine)
    if args.mix:
        rows = [f"A from level {n}" for n in range(2, len(session.flow.levels) + 1)]
        images = mixtures(session, photo).cpu()
        session.write(Grid(images, rows, ["A", "B", "A coarse, B fine"]), "mix", faces=args.faces)
        return
    t = torch.linspace(0, 1, args.n)
    eps, labels = [sheet(level.flatten(1).cpu(), t) for level in reversed(photo.code.eps)], None
    rows, columns = eps[0].shape[:2]
    flat = torch.cat([level.flatten(0, 1) for level in eps], 1)
    if y is not None:
        labels = straight(y, t).flatten(0, 1)
    lost = sheet_of_lost(photo.lost.float().cpu(), t)
    images = []
    for start in range(0, len(flat), BATCH):
        part = slice(start, start + BATCH)
        here = None if labels is None else labels[part].to(session.device)
        code = session.flow.unflatten(flat[part].to(session.device))
        images.append(decode_photo(session.flow, code, session.n_bits, here, lost[part].to(session.device)).cpu())
    images = torch.cat(images)
    path = session.write(Grid(images.unflatten(0, (rows, columns))), "interpolate", faces=args.faces)
    animate(images[:, None], path.with_suffix(".webp"), back=rows == 1)


def sheet(corners: Tensor, t: Tensor) -> Tensor:
    """Two or four codes (., d) -> (rows, columns, d) on arcs between them, exact at the corners."""
    if len(corners) == 2:
        return slerp(corners[0], corners[1], t)[None]
    left, right = slerp(corners[0], corners[2], t), slerp(corners[1], corners[3], t)
    return slerp(left, right, t[:, None]).transpose(0, 1)


def straight(corners: Tensor, t: Tensor) -> Tensor:
    """The same for what is mixed linearly: (., K) -> (rows, columns, K)."""
    if len(corners) == 2:
        return ((1 - t)[:, None] * corners[0] + t[:, None] * corners[1])[None]
    left = (1 - t)[:, None] * corners[0] + t[:, None] * corners[2]  # (rows, K)
    right = (1 - t)[:, None] * corners[1] + t[:, None] * corners[3]
    return (1 - t)[None, :, None] * left[:, None] + t[None, :, None] * right[:, None]


def sheet_of_lost(lost: Tensor, t: Tensor) -> Tensor:
    """The corners' lost bits (., C, H, H), mixed linearly and rounded: int32, one a picture."""
    mixed = straight(lost.flatten(1), t).flatten(0, 1).unflatten(1, lost.shape[1:])
    return mixed.round().to(torch.int32)


def mixtures(session: Session, photo: CodedPhoto) -> Tensor:
    """(L - 1, 3, C, H, H): A, B, and A's label and coarse levels with B's fine ones, cut at each level in turn."""
    flow, eps, label = session.flow, photo.code.eps, None if photo.y is None else photo.y[:1]
    own, rows = decode_photo(flow, eps, session.n_bits, photo.y, photo.lost), []
    for cut in range(1, len(eps)):
        mixed = [level[1:2] if i < cut else level[:1] for i, level in enumerate(eps)]
        rows.append(torch.cat([own, decode_photo(flow, mixed, session.n_bits, label)]))
    return torch.stack(rows)


def add_edit(parser: argparse.ArgumentParser) -> None:
    """The options of `edit`."""
    add_faces(parser, 12)
    parser.add_argument("--strip", help="from:to:number, shares of the whole move, as --strip=-1:2:7")
    add_move(parser)


def add_move(parser: argparse.ArgumentParser) -> None:
    """The options of every edit, shared with `export`."""
    asked = "Smiling=1|0|flip|0.7|+1.5, happy"
    needed = parser.prog.endswith("edit")
    parser.add_argument(
        "--attr", nargs="+", action="extend", required=needed, default=None if needed else [], help=asked
    )
    kinds = ["auto", "transfer", "ols", "mean", "local"]
    text = "another label, or a direction; auto: transfer where the run was told the label, else ols"
    parser.add_argument("--kind", choices=kinds, default="auto", help=text)
    text = f"how far; auto: each face by its reader; none: {TRANSFER_GAIN} for a transfer, {GAIN} for a direction"
    parser.add_argument("--gain", help=text)
    parser.add_argument("--k", type=int, default=NEIGHBOURS, help="neighbours on either side; local only")
    parser.add_argument("--keep", nargs="*", default=[], help="labels whose directions are left out of the move")
    parser.add_argument("--levels", help="move only these levels, 1 = finest, as 2,3")


def add_transfer(parser: argparse.ArgumentParser) -> None:
    """The options of `transfer`."""
    add_faces(parser, 8)
    parser.add_argument("--to", nargs="*", default=[], help="labels; none: all")
    parser.add_argument("--from", dest="source", help="the label the faces have; none: theirs, or the density's guess")
    parser.add_argument("--gain", type=float, default=TRANSFER_GAIN, help="1 is the label itself; more extrapolates")


def add_interpolate(parser: argparse.ArgumentParser) -> None:
    """The options of `interpolate`."""
    parser.add_argument("faces", nargs="*", help="two or four: files, or test:N")
    parser.add_argument("--n", type=int, default=9, help="steps along a side")
    parser.add_argument("--mix", action="store_true", help="A's coarse levels with B's fine ones, cut at each level")
    add_eyes(parser)

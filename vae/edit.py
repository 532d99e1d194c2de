"""One edit: code -> moved code -> picture. Local directions, a step for each face, and only what changes is painted.

A global vector bends with pose and place; the difference of a face's own neighbours with and without the attribute
does not (deep feature interpolation, 1611.05507, in code space: `knn`), provided that it is taken in pairs (`pairs`,
see `pair_vectors`). Each face goes as far as its score says, to the mean of the side asked for. Figures: README.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from data.photo import AlignedFace, change_mask, paste
from data.request import Move, Request, parse_names, parse_request
from engine import Grid, UserError, save_animation
from engine.grids import save_image, to_pil
from latents.directions import alphas_to_targets, kept_matches, knn_vectors, orthogonalise, side_of
from vae.attributes import AttributeVectors, Codes, against, get_vectors, label_names
from vae.session import Session, spread

KINDS = ("pairs", "knn", "ols", "mean")
MATCH = ("Male", "Mouth_Slightly_Open")  # neighbours agree with the face on these, where they exist
NEIGHBOURS = 100
PARTNERS = 10  # `pairs`: faces of the other side that a neighbour is compared with
COLUMNS = 12  # faces side by side in a grid


@dataclass
class Editor:
    """Moves codes of one run. `codes`: training faces; `vectors`: directions (of `kind`, or OLS) and readers."""

    codes: Codes
    vectors: AttributeVectors
    meta: dict
    kind: str = "pairs"
    k: int = NEIGHBOURS
    match: Sequence[str] = MATCH
    keep: Sequence[str] = ()

    def move(self, mu: Tensor, request: Request, labels: Tensor | None = None) -> Tensor:
        """mu (Q, Z) -> moved codes (Q, Z). labels (Q, L) in {0, 1, NaN} where known; what is not known is read.

        Requests for a side are solved together, so that every requested score lands on its side's mean; a step
        (`Smiling=+1.5`, in class distances) is taken first.
        """
        labels = self.complete(mu, labels)
        directions, scores, targets = [], [], []
        start = mu
        for wish in self.wishes(request):
            row = self.vectors.row(wish.name)
            v = self.direction(mu, wish, request, labels)  # (Q, Z)
            if self.keep:
                v = orthogonalise(v, self.vectors.direction[[self.vectors.row(name) for name in self.keep]])
            if wish.form == "step":
                start = start + wish.value * v
                continue
            directions.append(v)
            scores.append(self.vectors.score[row])
            without, with_ = self.vectors.class_mean[row]
            targets.append(without + self.shares(wish, labels) * (with_ - without))  # (Q,)
        if not directions:
            return start
        v = torch.stack(directions, 1)  # (Q, k, Z)
        alpha = alphas_to_targets(start, v, torch.stack(scores), torch.stack(targets, 1))  # (Q, k)
        return start + (alpha[..., None] * v).sum(1)

    def wishes(self, request: Request) -> list[Move]:
        """The moves of a request; leaving an expression means going to neutral."""
        request.require("set", "amount", "flip", "step", method="vae")
        wishes = []
        for wish in request:
            if wish.is_class and wish.form == "flip":
                raise UserError(f"{wish}: an expression has no other side; ask for another expression")
            if wish.is_class and wish.form == "set" and wish.value == 0:
                if "neutral" not in self.vectors.names:
                    raise UserError(f"{wish}: there is no neutral face to go to; ask for another expression")
                wish = replace(wish, name="neutral", value=1.0)
            wishes.append(wish)
        return wishes

    def complete(self, mu: Tensor, labels: Tensor | None) -> Tensor:
        """Labels (Q, L) with what is unknown read from the code by its score; unreadable ones stay NaN."""
        names, v = label_names(self.meta), self.vectors
        labels = torch.full((len(mu), len(names)), float("nan")) if labels is None else labels.clone()
        for row, name in enumerate(v.names):
            if name in self.meta["attributes"]:
                column = labels[:, names.index(name)]
                column.copy_(torch.where(column.isnan(), side_of(mu, v.score[row], v.class_mean[row]).float(), column))
        rows = [row for row, name in enumerate(v.names) if name in self.meta["classes"]]
        if rows:  # the expression whose score is the furthest towards its own side
            without, with_ = v.class_mean[rows].unbind(1)
            reading = (mu @ v.score[rows].T - without) / (with_ - without)  # (Q, K)
            columns = torch.tensor([names.index(v.names[row]) for row in rows])
            read = torch.nn.functional.one_hot(columns[reading.argmax(1)], len(names)).float()
            classes = torch.tensor([name in self.meta["classes"] for name in names])
            labels = torch.where(labels.isnan() & classes, read, labels)
        return labels

    def shares(self, wish: Move, labels: Tensor) -> Tensor:
        """Where each face shall stand between the sides' means, 0 without to 1 with: (Q,)."""
        if wish.form == "flip":
            return 1 - labels[:, label_names(self.meta).index(wish.name)]
        return torch.full((len(labels),), float(wish.value))

    def direction(self, mu: Tensor, wish: Move, request: Request, labels: Tensor) -> Tensor:
        """From without to with, one a face: (Q, Z). An expression is left for another, not for its absence."""
        groups = self.sources(wish, labels)
        if self.kind in ("ols", "mean"):
            v = self.vectors.direction[self.vectors.row(wish.name)].repeat(len(mu), 1)
            for source, rows in groups:
                if source and source in self.vectors.names and "neutral" in self.vectors.names:
                    v[rows] = v[rows] - self.vectors.direction[self.vectors.row(source)]
            return v
        v = torch.empty_like(mu)
        for source, rows in groups:
            v[rows] = self.local(mu[rows], wish, source, request, labels[rows])
        return v

    def sources(self, wish: Move, labels: Tensor) -> list[tuple[str | None, Tensor]]:
        """(expression to leave, faces (Q,) bool) for an expression; (None, all faces) for an attribute."""
        if not wish.is_class:
            return [(None, torch.ones(len(labels), dtype=torch.bool))]
        names, classes = label_names(self.meta), self.meta["classes"]
        shown = labels[:, [names.index(name) for name in classes]].argmax(1)
        groups = []
        for i in shown.unique().tolist():
            groups.append((classes[i] if classes[i] != wish.name else None, shown == i))
        return groups

    def local(self, mu: Tensor, wish: Move, source: str | None, request: Request, labels: Tensor) -> Tensor:
        """Directions (Q, Z) from the faces around each code, `knn` or `pairs`."""
        names, known = label_names(self.meta), self.codes.labels
        target = known[:, names.index(wish.name)]
        if source is not None:
            target = against(target[:, None], known[:, names.index(source)])[:, 0]
        match = [] if wish.is_class else [n for n in self.match if n in names and n not in request]
        columns = [names.index(name) for name in match]
        table = torch.cat([target[:, None], known[:, columns]], 1)  # (N, 1 + match)
        query = torch.cat([torch.full((len(mu), 1), float("nan")), labels[:, columns]], 1)
        order = list(range(1, len(match) + 1))
        kept = kept_matches(query, table, 0, order, self.k)
        if relaxed := int((kept < len(match)).sum()):
            print(f"{wish}: too few neighbours agree on {', '.join(match)} for {relaxed} faces; less was asked of them")
        if self.kind == "knn":
            return knn_vectors(mu, query, self.codes.mu, table, 0, self.k, order, [wish.name, *match])
        v = torch.empty_like(mu)
        for asked in torch.cat([kept[:, None], query[:, 1:].nan_to_num(-1)], 1).unique(dim=0):
            columns = order[: int(asked[0])]
            mine = (kept == asked[0]) & (query[:, 1:].nan_to_num(-1) == asked[1:]).all(1)
            agree = ((table == query[mine][:1]) | query[mine][:1].isnan())[:, columns].all(1)
            v[mine] = pair_vectors(mu[mine], self.codes.mu[agree], target[agree], self.k)
        return v


def pair_vectors(query: Tensor, mu: Tensor, target: Tensor, k: int, partners: int = PARTNERS) -> Tensor:
    """From without to with around each query, (Q, Z): the mean over the k nearest codes of the rarer side of (code -
    mean of *its* nearest codes of the other side), the sign turned where the rarer side is without.

    The plain difference of both sides' nearest codes is biased: the rarer side's are further away and hence nearer to
    the average face, so the edit loses the person. Here each difference is taken on the spot. Distances leave out the
    axis between the two means, else partners would be those that almost smile. target (N,) in {0, 1, NaN}; a code
    equal to the query's never counts.
    """
    sides = [mu[target == side].double() for side in (0, 1)]
    rare = int(len(sides[1]) <= len(sides[0]))
    anchors, others = sides[rare], sides[1 - rare]
    if not len(anchors):
        raise UserError("no face is left on one side to take neighbours from; match fewer attributes")
    across = torch.nn.functional.normalize(anchors.mean(0) - others.mean(0), dim=0)

    def nearest(codes: Tensor, among: Tensor, count: int) -> Tensor:
        flat = [c - (c @ across)[:, None] * across for c in (codes, among)]
        distance = torch.cdist(*flat)
        distance[distance < 1e-6] = torch.inf
        return distance.topk(min(count, len(among)), largest=False).indices

    near = nearest(query.double(), anchors, k)  # (Q, k)
    used, place = near.unique(return_inverse=True)
    steps = [part - others[nearest(part, others, partners)].mean(1) for part in anchors[used].split(256)]
    v = torch.cat(steps)[place].mean(1)
    return (v if rare == 1 else -v).to(query.dtype)


def open_editor(session: Session, kind: str, k: int, match: Sequence[str], keep: Sequence[str]) -> Editor:
    """An editor with the run's codes and vectors, which are made where they are missing."""
    train, val, meta = session.codes("train"), session.codes("val"), session.meta
    vectors = get_vectors(session.method, session.dir, "mean" if kind == "mean" else "ols", train, val)
    names = parse_names(keep, meta["classes"], meta["attributes"])
    return Editor(train, vectors, meta, kind, k, match, names)


def paint(x: Tensor, before: Tensor, after: Tensor, detail: str) -> Tensor:
    """The edited picture: `decode`, the decoded moved code `after`; `blend`, that where it differs from the decoded
    code `before`, and the input's own pixels elsewhere. Adding the difference instead would leave a ghost of the old
    mouth. All (N, C, H, H) in [-1, 1]."""
    if detail == "decode":
        return after
    mask = change_mask(before, after)  # (N, 1, H, H)
    return torch.where(mask > 0, x + mask * (after - x), x)


def run_edit(args: argparse.Namespace) -> None:
    """Edit files or faces of the data; write a grid and, for files, the whole photo."""
    session = Session(args)
    for words in (args.attr, args.keep, args.match):
        take_images(words, args.images)
    request = parse_request(args.attr, session.meta["classes"], session.meta["attributes"])
    editor = open_editor(session, args.kind, args.k, args.match, args.keep)
    x, labels, photos, names = faces_to_edit(session, args)
    mu = session.encode(x)
    z = editor.move(mu, request, labels)
    facts = {"attr": str(request), "kind": args.kind, "detail": args.detail, "keep": args.keep, "faces": names}
    before = session.decode(mu)
    if args.strip:
        shares = strip_of(args.strip)
        steps = [paint(x, before, session.decode(mu + share * (z - mu)), args.detail) for share in shares]
        images = torch.stack(steps, 1)  # (N, K, C, H, H)
        path = session.write(Grid(images, [], [f"{share:+.2g}" for share in shares]), "edit", **facts)
        frames = [torch.cat(list(frame), 2) for frame in (*steps, *steps[-2:0:-1])]
        save_animation(torch.stack(frames), path.with_suffix(".gif" if args.gif else ".webp"))
        return
    after = session.decode(z)
    edited = paint(x, before, after, args.detail)
    path = session.write(blocks([x, before, edited], ["input", "reconstruction", str(request)]), "edit", **facts)
    for i, (name, photo) in enumerate(zip(names, photos, strict=True)):
        if photo is not None:
            write_photo(photo, name, path, before[i : i + 1], after[i : i + 1], args.detail)


def write_photo(photo: AlignedFace, name: str, beside: Path, before: Tensor, after: Tensor, detail: str) -> None:
    """The edit in the photo at its own resolution (blend), or the decoded face alone."""
    path = beside.with_name(f"{beside.stem}_{Path(name).stem}.png")
    picture = to_pil(after[0]) if detail == "decode" else paste(photo, after, change_mask(before, after))
    save_image(picture, path)
    print(f"wrote {path}")


def faces_to_edit(
    session: Session, args: argparse.Namespace
) -> tuple[Tensor, Tensor | None, list[AlignedFace | None], list[str]]:
    """Images (N, C, H, H), labels (N, L) or None, aligned photos (None for faces of the data), names."""
    names = args.images or [f"{args.split}:{i}" for i in spread(args.n, len(session.split(args.split)))]
    found = [session.face(name, args.eyes) for name in names]
    unknown = torch.full((1, len(label_names(session.meta))), float("nan"))
    labels = torch.cat([unknown if label is None else label for _, label, _ in found])
    return torch.cat([image for image, _, _ in found]), labels, [photo for _, _, photo in found], names


def take_images(words: list[str], images: list[str]) -> None:
    """Options that take several words swallow the files after them (`--attr Smiling=1 me.jpg`): give them back."""
    for word in list(words):
        if re.fullmatch(r"(train|val|test):\d+", word) or "=" not in word and Path(word).suffix:
            words.remove(word)
            images.append(word)


def strip_of(text: str) -> list[float]:
    """`-1:2:7` -> seven shares of the whole move, from -1 to 2."""
    try:
        first, last, count = text.split(":")
        return torch.linspace(float(first), float(last), int(count)).tolist()
    except (ValueError, RuntimeError):
        raise UserError(f"--strip {text}: expected from:to:number, as -1:2:7") from None


def blocks(kinds: Sequence[Tensor], names: Sequence[str]) -> Grid:
    """Pictures of one face below each other, faces beside each other, in blocks of twelve."""
    columns = min(COLUMNS, len(kinds[0]))
    filled = [torch.cat([k, k.new_ones(-len(k) % columns, *k.shape[1:])]) for k in kinds]
    rows = torch.stack(filled, 1).unflatten(0, (-1, columns)).transpose(1, 2).flatten(0, 1)  # (blocks x kinds, K, ...)
    return Grid(rows, list(names) * (len(rows) // len(names)))


def add_edit(parser: argparse.ArgumentParser) -> None:
    """The options of `edit`."""
    parser.add_argument("images", nargs="*", help="photos, or test:N; none: --n of --split")
    parser.add_argument("--split", choices=["train", "val", "test"], default="test", help="of which, without images")
    parser.add_argument("--n", type=int, default=12, help="how many of them")
    parser.add_argument("--eyes", help="x1,y1,x2,y2 of a photo in px, or whole; none: look for the face")
    parser.add_argument("--strip", help="from:to:number, shares of the whole move, as -1:2:7")
    parser.add_argument("--gif", action="store_true", help="with --strip: GIF instead of WebP")
    add_move(parser)


def add_move(parser: argparse.ArgumentParser) -> None:
    """The options of every edit, shared with `export`."""
    asked = "Smiling=1|0|flip|0.7|+1.5, happy"
    parser.add_argument("--attr", nargs="+", action="extend", required=parser.prog.endswith("edit"), help=asked)
    parser.add_argument(
        "--kind", choices=KINDS, default="pairs", help="direction: from each face's neighbours (pairs, knn) or global"
    )
    parser.add_argument("--k", type=int, default=NEIGHBOURS, help="neighbours on either side")
    parser.add_argument("--match", nargs="*", default=list(MATCH), help="attributes on which neighbours agree")
    parser.add_argument("--keep", nargs="*", default=[], help="attributes whose directions are left out of the move")
    parser.add_argument("--detail", choices=["blend", "decode"], default="blend", help="keep the input's pixels or not")

"""Edits of one photo by several methods, side by side: image, prediction of the judge, identity similarity, time."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from data.emotions import class_order
from data.photo import AlignedFace, inverse, load_face, open_photo, transform
from data.request import Request
from editing.editor import Editor, partway
from editing.judge import Judge
from editing.paint import paint, paint_photo
from editing.release import unpacked
from editing.subjects import Subjects
from engine import Grid, UserError
from engine.grids import grid_image, to_pil, to_uint8
from evaluation import classifier

MAX_PIXELS = 40_000_000  # of an upload
MAX_SIDE = 1024  # px; larger photos are reduced
VIEW, MARGIN = 192, 0.25  # side of the shown face in px; what is shown around the crop, as a share of its side
NUM_FRAMES = 9  # of an animation


@dataclass
class Photo:
    """A photo, and its face as each method sees it, with its code: found once, then kept in memory."""

    picture: Image.Image
    eyes: str | None = None  # as in `data.photo.load_face`
    faces: dict[str, Subjects] = field(default_factory=dict)

    def face(self, name: str, editor: Editor) -> Subjects:
        """The face as an editor sees it. Raises UserError if no face is found or the editor reads no photos."""
        if "read" in editor.unsupported:
            raise UserError(editor.unsupported["read"])
        if name not in self.faces:
            aligned = load_face(self.picture, editor.meta, self.eyes or None)
            self.faces[name] = replace(editor.from_images(aligned.image, ["photo"]), photos=[aligned])
        return self.faces[name]


@dataclass(frozen=True)
class Result:
    """The edit by one method. Without an image, `reason` says why."""

    method: str
    image: Image.Image | None = None  # VIEW x VIEW px
    verdict: str = ""
    similarity: float | None = None  # cosine of the embeddings of both faces
    seconds: float = 0.0
    reason: str = ""


@dataclass
class SideBySide:
    """Opened runs by name, and the judges, if there are any."""

    editors: dict[str, Editor]
    judge: Path | None = None  # of expressions and attributes
    identity: Path | None = None  # of identity

    def __post_init__(self) -> None:
        self.judges: dict[str, Judge | str] = {}
        for name, editor in self.editors.items():
            try:
                self.judges[name] = Judge(self.judge, editor) if self.judge else "no judge"
            except UserError as error:
                self.judges[name] = f"no prediction: {error}"
        self.embedding = classifier.load(unpacked(self.identity), role="judge", device="cpu") if self.identity else None
        if self.embedding is not None and "identity" not in self.embedding.heads:
            raise UserError(f"{self.identity}: is not a judge of identity; give a run with model.heads=[identity]")

    def names(self) -> tuple[list[str], list[str]]:
        """Expressions and attributes that at least one method can be asked for."""
        classes = list(dict.fromkeys(name for editor in self.editors.values() for name in editor.classes))
        attributes = {name for editor in self.editors.values() for name in editor.attributes}
        return [classes[i] for i in class_order(classes)], sorted(attributes)

    def refusals(self, words: Sequence[str]) -> dict[str, str]:
        """{method: sentence} of the methods that cannot edit a photo as asked."""
        found = {}
        for name, editor in self.editors.items():
            try:
                self._request(editor, words)
            except UserError as error:
                found[name] = str(error)
        return found

    def _request(self, editor: Editor, words: Sequence[str]) -> Request:
        for operation in ("read", "edit"):
            if operation in editor.unsupported:
                raise UserError(editor.unsupported[operation])
        return editor.parse(list(words))

    def edits(self, photo: Photo, words: Sequence[str], strength: float, detail: str) -> Iterator[Result]:
        """The edit of each method in turn, as soon as it is there.

        Args:
            words: the request, as happy or Smiling=1.
            detail: one of `editing.paint.DETAILS`.
        """
        for name, editor in self.editors.items():
            start = time.perf_counter()
            try:
                before, (after,) = self._decoded(photo, name, words, [strength])
                face = photo.face(name, editor)
                edited = paint(face.images, before, after, detail)
                image = face_view(photo.picture, face.photos[0], before, after, detail)
            except UserError as error:
                yield Result(name, reason=str(error))
                continue
            seconds = time.perf_counter() - start
            judge = self.judges[name]
            verdict = judge if isinstance(judge, str) else judge.captions(edited, editor.parse(list(words)))[0]
            yield Result(name, image, verdict, self._similarity(face.images, edited), seconds)

    @torch.no_grad()
    def _decoded(
        self, photo: Photo, name: str, words: Sequence[str], strengths: Sequence[float]
    ) -> tuple[Tensor, list[Tensor]]:
        """The reconstruction of the face, and its edit at each strength, (1, C, H, H)."""
        editor = self.editors[name]
        request, face = self._request(editor, words), photo.face(name, editor)
        code, target = editor.codes(face), editor.target(face, request)
        return editor.images(code), [editor.images(partway(code, target, strength)) for strength in strengths]

    def _similarity(self, before: Tensor, after: Tensor) -> float | None:
        if self.embedding is None:
            return None
        a, b = (self.embedding.features(torch.from_numpy(to_uint8(x))) for x in (before, after))
        return float(cosine_similarity(a, b))

    def animation(self, photo: Photo, words: Sequence[str], strength: float, detail: str) -> list[Image.Image]:
        """Frames from strength 0 to `strength` and back, the methods side by side.

        Raises:
            UserError: no method can edit the photo as asked.
        """
        strengths = torch.linspace(0, strength, NUM_FRAMES).tolist()
        refused, rows = self.refusals(words), []
        for name in self.editors:
            if name not in refused:
                before, edits = self._decoded(photo, name, words, strengths)
                aligned = photo.faces[name].photos[0]
                rows.append([face_view(photo.picture, aligned, before, after, detail) for after in edits])
        if not rows:
            raise UserError("no method can edit the photo as asked: " + "; ".join(refused.values()))
        frames = [beside(pictures) for pictures in zip(*rows, strict=True)]
        return [*frames, *frames[-2:0:-1]]


def read_upload(path: Path) -> Photo:
    """A photo from an uploaded file: upright, RGB, and reduced so that no side is longer than MAX_SIDE px.

    Raises:
        UserError: the file is not a readable picture, or has more than MAX_PIXELS pixels (a large file is not decoded).
    """
    try:
        with Image.open(path) as file:
            width, height = file.size
    except Image.DecompressionBombError:
        width = height = MAX_PIXELS
    except OSError:
        raise UserError("the upload is not a readable picture; give a JPEG, PNG or WebP file") from None
    if width * height > MAX_PIXELS:
        raise UserError(f"the photo has more than {MAX_PIXELS // 10**6} million pixels; give a smaller one")
    picture = open_photo(path)
    picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return Photo(picture)


def face_view(picture: Image.Image, aligned: AlignedFace, before: Tensor, after: Tensor, detail: str) -> Image.Image:
    """The edited photo around the face, or the decoded face: VIEW x VIEW px."""
    edited = paint_photo(aligned, before, after, detail)
    if edited.size != picture.size or detail == "decode":
        return to_pil(interpolate(after, (VIEW, VIEW), mode="bicubic", antialias=True)[0]).convert("RGB")
    return cut_face(edited, aligned)


def cut_face(picture: Image.Image, aligned: AlignedFace) -> Image.Image:
    """The photo around the face, VIEW x VIEW px. Beyond its border the photo is grey."""
    size = aligned.image.shape[-1]
    (x0, y0), (x1, y1) = transform(torch.tensor([[0.0, 0.0], [size, size]]).numpy(), inverse(aligned.matrix))
    half = max(abs(x1 - x0), abs(y1 - y0)) * (0.5 + MARGIN)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    fine = VIEW * max(1, math.ceil(2 * half / VIEW))  # sampled finely, then reduced
    box, grey = (x - half, y - half, x + half, y + half), (230, 230, 230)
    view = picture.transform((fine, fine), Image.Transform.EXTENT, box, Image.Resampling.BICUBIC, fillcolor=grey)
    return view.resize((VIEW, VIEW), Image.Resampling.LANCZOS)


def beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """Images side by side."""
    sheet, left = Image.new("RGB", (sum(p.width for p in pictures), pictures[0].height)), 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width
    return sheet


def strip(source: Image.Image, results: Sequence[Result]) -> Image.Image:
    """The face and its edits with names and predictions of the judge, as one picture."""
    shown = [result for result in results if result.image is not None]
    pictures = [source, *(result.image for result in shown)]
    tensors = [torch.from_numpy(_array(p)).permute(2, 0, 1).float() / 127.5 - 1 for p in pictures]
    captions = [["", *(result.verdict for result in shown)]]
    return grid_image(Grid(torch.stack(tensors)[None], [], ["photo", *(r.method for r in shown)], captions), scale=1)


def _array(picture: Image.Image) -> np.ndarray:
    return np.array(picture.convert("RGB"))

"""Find faces and eyes in a photo with OpenCV's Haar cascades, which are part of its package (no download).

OpenCV comes with the optional extra `photo`. Without it, importing this module raises ImportError.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

ANGLES = (0, 20, -20, 40, -40)  # degrees, tried in this order; the cascades tolerate about 15 degrees of roll
WORK_SIDE = 640  # px; every photo is scaled to this longer side
FACE_WIDTH = 200  # px; a face is scaled to this width before the search for its eyes
EYES = np.array([[0.305, 0.39], [0.695, 0.39]])  # mean eye positions in the cascade's box, as shares of the box
SPREAD = 1.036  # the cascades put the eyes too far apart by this factor (60 faces with marked eyes)
MAX_OFFSET = 0.16  # share of the box; a detection farther from the mean position is not an eye
MIN_RELATIVE_WIDTH = 0.5  # faces narrower than this share of the widest face are background


@dataclass(frozen=True)
class Face:
    """One face found."""

    eyes: np.ndarray  # (2, 2) x, y in px of the photo, image-left eye first
    width: float  # of the cascade's box, px of the photo
    seen: bool  # True: both eyes were found; False: `eyes` are the mean positions


def find_faces(grey: np.ndarray) -> list[Face]:
    """The faces of a photo (H, W) uint8, widest first, without small faces in the background."""
    height, width = grey.shape
    scale = WORK_SIDE / max(height, width)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = cv2.resize(grey, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=interpolation)
    pad = max(small.shape) // 8  # without a border the cascade misses the face of a tight crop
    small = cv2.copyMakeBorder(small, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    fallback: list[Face] = []
    for angle in ANGLES:
        faces = _upright_faces(small, angle)
        faces = [Face((f.eyes - pad) / scale, f.width / scale, f.seen) for f in faces]
        if any(face.seen for face in faces):
            return _main_faces(faces)
        fallback = fallback or _main_faces(faces)
    return fallback


def find_upright(grey: np.ndarray) -> np.ndarray | None:
    """Both eyes (2, 2) x, y in px of the widest upright face of a picture (H, W) uint8, or None.

    This is faster than `find_faces`: it does not rotate the picture. A face with a hidden eye gives None.
    """
    scale = WORK_SIDE / 2 / max(grey.shape)
    size = tuple(max(1, round(side * scale)) for side in grey.shape[::-1])
    pad = max(size) // 8
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    small = cv2.copyMakeBorder(small, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    faces = [face for face in _upright_faces(small, 0) if face.seen]
    return (max(faces, key=lambda face: face.width).eyes - pad) / scale if faces else None


def _main_faces(faces: list[Face]) -> list[Face]:
    """The widest face and all faces of similar width. If any face has visible eyes, only such faces count."""
    seen = [face for face in faces if face.seen] or faces
    seen = sorted(seen, key=lambda face: -face.width)
    return [face for face in seen if face.width >= MIN_RELATIVE_WIDTH * seen[0].width]


def _upright_faces(grey: np.ndarray, angle: float) -> list[Face]:
    """Faces in the picture rotated by `angle` degrees, in coordinates of the picture before the rotation."""
    height, width = grey.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    turned = grey if angle == 0 else cv2.warpAffine(grey, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
    back = cv2.invertAffineTransform(turn)
    least = max(24, min(height, width) // 10)
    boxes = _cascade("haarcascade_frontalface_alt2.xml").detectMultiScale(turned, 1.1, 4, minSize=(least, least))
    faces = []
    for x, y, w, h in boxes:
        places, seen = _eyes(turned[y : y + h, x : x + w])
        points = places * (w, h) + (x, y)
        faces.append(Face(points @ back[:, :2].T + back[:, 2], float(w), seen))
    return faces


def _eyes(face: np.ndarray) -> tuple[np.ndarray, bool]:
    """Both eyes (2, 2) in shares of the face's box, and whether both were found (else the mean positions)."""
    scale = FACE_WIDTH / face.shape[1]
    face = cv2.resize(face, (FACE_WIDTH, max(1, round(face.shape[0] * scale))), interpolation=cv2.INTER_CUBIC)
    top, bottom = round(0.15 * len(face)), round(0.62 * len(face))
    found = []
    for mirrored in (False, True):  # the cascades are biased to one side; the mirror image cancels the bias
        strip = np.ascontiguousarray(face[top:bottom, ::-1] if mirrored else face[top:bottom])
        for name in ("haarcascade_eye.xml", "haarcascade_eye_tree_eyeglasses.xml"):
            size = (FACE_WIDTH // 9, FACE_WIDTH // 9), (FACE_WIDTH // 2, FACE_WIDTH // 2)
            boxes = _cascade(name).detectMultiScale(strip, 1.05, 3, minSize=size[0], maxSize=size[1])
            for x, y, w, h in boxes:
                across = (x + w / 2) / FACE_WIDTH
                found.append((1 - across if mirrored else across, (y + top + h / 2) / len(face)))
    places = EYES.copy()
    seen = []
    for k, mean in enumerate(EYES):
        near = [p for p in found if np.linalg.norm(np.subtract(p, mean)) < MAX_OFFSET]
        seen.append(bool(near))
        if near:  # one eye is often found several times
            places[k] = np.median(near, axis=0)
    if not all(seen):
        return EYES.copy(), False
    middle = places.mean(0)
    return middle + (places - middle) / SPREAD, True


@functools.cache
def _cascade(name: str) -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(cv2.data.haarcascades + name)  # pyright: ignore[reportAttributeAccessIssue]

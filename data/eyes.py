"""The mean eye positions of a set without landmarks, measured on a sample of its pictures."""

import numpy as np
from PIL import Image

from data.decode import BadImage
from data.raw import RawFaces

NUM_SAMPLES = 12  # pictures to search
NUM_FIRST = 4  # stop if the first pictures, this many, show no face
MIN_FACES = 3  # use the default if fewer faces are found


def measured_eyes(
    reader: RawFaces, usable: np.ndarray, boxes: np.ndarray, default: list[list[float]] | None
) -> tuple[list[list[float]] | None, str]:
    """The median positions of both eyes in [-1, 1] of the packed picture, and a line about their source.

    Args:
        usable: (N,) bool, the pictures that show something.
        boxes: (N, 4) the crop of each picture in px.
        default: the result if the face finder (OpenCV) is not installed or finds too few faces.
    """
    advice = "own photos are aligned to these positions; if they are wrong, set data.eyes=[x, y, x, y]"
    fallback = f"the eyes are assumed at {default or 'the mean positions of FER2013'}"
    try:
        from data.face_finder import find_upright
    except ImportError:
        return default, f"OpenCV is not installed, so {fallback}; {advice}"
    rows = np.flatnonzero(usable)
    count = min(NUM_SAMPLES, len(rows))
    rows = rows[np.arange(count) * len(rows) // max(1, count)]
    found, searched = [], 0
    for row in rows:
        if searched == NUM_FIRST and not found:
            break
        searched += 1
        try:
            picture = reader.read(int(row))
        except BadImage:
            continue
        eyes = find_upright(np.asarray(Image.fromarray(picture.squeeze()).convert("L")))
        if eyes is not None:
            corner, side = boxes[row, :2], boxes[row, 2] - boxes[row, 0]
            found.append((eyes - corner) / side * 2 - 1)
    if len(found) < MIN_FACES:
        return default, f"faces were found in {len(found)} of {searched} pictures, so {fallback}; {advice}"
    positions = np.median(found, axis=0).round(4).tolist()
    return positions, f"eyes measured at {positions} in {len(found)} of {searched} pictures; {advice}"

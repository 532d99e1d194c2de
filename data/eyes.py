"""Where the eyes of a set stand, measured on a sample of its pictures where no landmarks say it."""

import numpy as np
from PIL import Image

from data.decode import BadImage
from data.raw import RawFaces

SAMPLE = 12  # pictures looked at
HOPELESS = 4  # first pictures without a face, after which the search ends
LEAST = 3  # faces found, below which nothing is concluded


def measured_eyes(
    reader: RawFaces, usable: np.ndarray, boxes: np.ndarray, otherwise: list[list[float]] | None
) -> tuple[list[list[float]] | None, str]:
    """Median places of both eyes in [-1, 1] of the packed picture, and a line that says where they come from.

    Args:
        usable: (N,) bool, pictures that show something; boxes: (N, 4) the part of each that was packed, in px.
        otherwise: the places that are taken where the finder (OpenCV) is not installed or finds too few faces.
    """
    advice = "own photos are cut so that their eyes stand there; set data.eyes=[x, y, x, y] if that is wrong"
    fallback = f"the eyes are taken to be at {otherwise or 'the mean places of FER2013'}"
    try:
        from data.face_finder import find_upright
    except ImportError:
        return otherwise, f"no face finder is installed (OpenCV), so {fallback}; {advice}"
    rows = np.flatnonzero(usable)
    rows = rows[np.arange(min(SAMPLE, len(rows))) * len(rows) // max(1, min(SAMPLE, len(rows)))]
    found, looked = [], 0
    for row in rows:
        if looked == HOPELESS and not found:
            break
        looked += 1
        try:
            picture = reader.read(int(row))
        except BadImage:
            continue
        eyes = find_upright(np.asarray(Image.fromarray(picture.squeeze()).convert("L")))
        if eyes is not None:
            corner, side = boxes[row, :2], boxes[row, 2] - boxes[row, 0]
            found.append((eyes - corner) / side * 2 - 1)
    if len(found) < LEAST:
        return otherwise, f"faces were found in {len(found)} of {looked} pictures, so {fallback}; {advice}"
    places = np.median(found, axis=0).round(4).tolist()
    return places, f"eyes measured at {places} in {len(found)} of {looked} pictures; {advice}"

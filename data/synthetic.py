"""Drawn faces: an embedded data set with exact truth, drawn as a pure function of (seed, index).

    f = factors(seed=0, index=np.arange(8), classes=8)      # who, how, under what light
    x = render(f, 64)                                       # (8, 3, 64, 64) uint8
    y = render(apply(f, "happy"), 64)                       # the same faces, smiling: the right answer of an edit

Frame: [-1, 1]² from edge to edge, x right, y down. Splits are by identity: face i of a split with p pictures a person
has index `SPLIT_OFFSET[split] * p + i`. Pure numpy; the parts are in `data/drawn/`, the page is docs/drawn_faces.md.
"""

from data.drawn.draw import render
from data.drawn.edits import apply
from data.drawn.expression import action_units
from data.drawn.factors import AUS, factors
from data.drawn.labels import attributes
from data.drawn.marks import MIRROR, MIRROR5, landmarks, landmarks5
from data.drawn.names import ATTRIBUTES, CLASSES, EYES, SPLIT_OFFSET

__all__ = [
    "ATTRIBUTES", "AUS", "CLASSES", "EYES", "MIRROR", "MIRROR5", "SPLIT_OFFSET", "action_units", "apply", "attributes",
    "factors", "landmarks", "landmarks5", "render",
]  # fmt: skip

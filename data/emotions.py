"""Names of expressions: one canonical word each, and synonyms that folders and files use."""

import difflib
from collections.abc import Sequence

# FER2013's codes 0..6 (TFD's 1..7 in the same order), then contempt as the eighth.
EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral", "contempt")

SYNONYMS = {
    "angry": ("anger", "ang", "an"),
    "disgust": ("disgusted", "dis", "di"),
    "fear": ("fearful", "afraid", "scared", "fea", "af", "fe"),
    "happy": ("happiness", "happily", "joy", "joyful", "hap", "ha"),
    "sad": ("sadness", "unhappy", "sa"),
    "surprise": ("surprised", "sur", "su"),
    "neutral": ("neutrality", "calm", "neu", "ne", "no_emotion"),
    "contempt": ("contemptuous", "con", "co"),
}
_CANONICAL = {word: name for name, words in SYNONYMS.items() for word in (name, *words)}


def canonical(word: str) -> str | None:
    """The canonical name of an expression word in any case, or None: 'Happiness' -> 'happy'."""
    return _CANONICAL.get(word.strip().lower().replace(" ", "_").replace("-", "_"))


def nearest(word: str, known: list[str] | tuple[str, ...], n: int = 3) -> str:
    """The names most similar to `word`, joined by ', '; if none is similar, the first eight names. For messages."""
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), lower, n=n, cutoff=0.4)
    return ", ".join([lower[name] for name in close] or list(known)[:8])


def class_order(names: Sequence[str]) -> list[int]:
    """Indices of classes in the order of `EMOTIONS`; other classes follow in their own order."""
    rank = [EMOTIONS.index(name) if (name := canonical(word) or "") in EMOTIONS else len(EMOTIONS) for word in names]
    return sorted(range(len(names)), key=lambda i: (rank[i], i))

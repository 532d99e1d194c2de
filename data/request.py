"""One syntax for what a user asks of a face, the same for every method: `Smiling=1`, `Male=flip`, `happy=0.7`.

| form | read as | meaning |
| --- | --- | --- |
| `Smiling=1`, `Smiling=0` | `set` | with it, without it |
| `Smiling=0.7`, `happy=0.7` | `amount` | an intensity between 0 and 1 |
| `happy` | `set` 1 | a class needs no value |
| `Male=flip`, `Male=any` | `flip`, `any` | the other side; left open |
| `Smiling=+1.5`, `Smiling=-1.0` | `step` | a signed step from where the face is, in the method's unit |
| `Smiling=@2` | `absolute` | the reading itself, in the method's unit |
| `Smiling=p0.8` | `probability` | until a classifier says so with that probability |
| `Smiling=-2:3:6` | `range` | a strip: from, to, number of pictures |
| `hair=blond` | `set` 1 | one of several that exclude each other; the others are `set` 0 and marked as implied |

Items are separated by blanks, commas or semicolons. Names are found in any case, by aliases (`Beard=1` is
`No_Beard=0`), and expressions by their synonyms (`happiness`). A bare `=-1` is refused: it is 0 in one file format
and a step in another.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data.emotions import SYNONYMS, canonical
from engine.errors import UserError

FORMS = ("set", "amount", "flip", "any", "step", "absolute", "probability", "range")

# word -> attribute; a leading "-" turns the meaning round.
ALIASES = {
    "beard": "-No_Beard",
    "beardless": "No_Beard",
    "clean_shaven": "No_Beard",
    "stubble": "5_o_Clock_Shadow",
    "moustache": "Mustache",
    "female": "-Male",
    "woman": "-Male",
    "man": "Male",
    "old": "-Young",
    "smile": "Smiling",
    "glasses": "Eyeglasses",
    "spectacles": "Eyeglasses",
    "mouth_open": "Mouth_Slightly_Open",
    "open_mouth": "Mouth_Slightly_Open",
    "mouth_closed": "-Mouth_Slightly_Open",
    "narrow_eye": "Narrow_Eyes",
    "wide_eyes": "-Narrow_Eyes",
    "fringe": "Bangs",
    "blonde_hair": "Blond_Hair",
    "grey_hair": "Gray_Hair",
    "hat": "Wearing_Hat",
    "lipstick": "Wearing_Lipstick",
    "earrings": "Wearing_Earrings",
    "necklace": "Wearing_Necklace",
    "necktie": "Wearing_Necktie",
    "tie": "Wearing_Necktie",
    "makeup": "Heavy_Makeup",
    "make_up": "Heavy_Makeup",
    "pale": "Pale_Skin",
}
# group -> value -> attribute; within a row the attributes exclude each other.
COLOURS = {"black": "Black_Hair", "blond": "Blond_Hair", "blonde": "Blond_Hair", "brown": "Brown_Hair"}
COLOURS |= {"gray": "Gray_Hair", "grey": "Gray_Hair"}
SHAPES = {"straight": "Straight_Hair", "wavy": "Wavy_Hair"}
GROUPS = {"hair": (COLOURS, SHAPES, {"bald": "Bald"})}

NUMBER = r"\d+(?:\.\d*)?|\.\d+"
SIGNED = rf"[+-]?(?:{NUMBER})"


@dataclass(frozen=True)
class AttributeEdit:
    """One thing asked for. `value` is 0 or 1 (`set`), the amount, step, reading or probability; None for `flip` and
    `any`; for a `range` its first value, with `stop` and `num`.
    """

    name: str  # as the model knows it
    form: str  # one of FORMS
    value: float | None = None
    stop: float | None = None
    num: int | None = None
    is_class: bool = False  # an expression class, not an attribute
    implied: bool = False  # follows from another move (hair=blond: not black)

    def values(self) -> list[float]:
        """The values to visit: a `range` evenly spaced with both ends; the one value; none for flip and any."""
        if self.form == "range":
            step = (self.stop - self.value) / (self.num - 1)
            return [self.value + i * step for i in range(self.num)]
        return [] if self.value is None else [self.value]

    def __str__(self) -> str:
        number = "" if self.value is None else f"{self.value:g}"
        text = {
            "set": number,
            "amount": number,
            "flip": "flip",
            "any": "any",
            "step": "" if self.value is None else _decimal(self.value),
            "absolute": f"@{number}",
            "probability": f"p{number}",
            "range": "" if self.stop is None else f"{number}:{self.stop:g}:{self.num}",
        }
        return f"{self.name}={text[self.form]}"


@dataclass(frozen=True)
class Request:
    """What was asked, in the order given. `str(request)` is its canonical text, which reads back to the same
    request."""

    moves: tuple[AttributeEdit, ...]

    def __iter__(self) -> Iterator[AttributeEdit]:
        return iter(self.moves)

    def __len__(self) -> int:
        return len(self.moves)

    def __getitem__(self, name: str) -> AttributeEdit:
        return next(move for move in self.moves if move.name == name)

    def __contains__(self, name: str) -> bool:
        return any(move.name == name for move in self.moves)

    def __str__(self) -> str:
        return ";".join(str(move) for move in self.moves)

    @property
    def names(self) -> list[str]:
        """What is asked for, in order."""
        return [move.name for move in self.moves]

    @property
    def classes(self) -> tuple[AttributeEdit, ...]:
        """The moves that name an expression."""
        return tuple(move for move in self.moves if move.is_class)

    @property
    def attributes(self) -> tuple[AttributeEdit, ...]:
        """The moves that name an attribute."""
        return tuple(move for move in self.moves if not move.is_class)

    def require(self, *forms: str, method: str) -> Request:
        """The request itself, or a UserError that names the first form `method` lacks and the forms it has."""
        assert set(forms) <= set(FORMS), forms
        for move in self.moves:
            if move.form not in forms:
                can = ", ".join(EXAMPLES[form] for form in forms)
                raise UserError(f"{move}: {method} cannot do this; it takes {can}")
        return self


EXAMPLES = {
    "set": "Name=1 or 0",
    "amount": "Name=0.7",
    "flip": "Name=flip",
    "any": "Name=any",
    "step": "Name=+1.5",
    "absolute": "Name=@2",
    "probability": "Name=p0.8",
    "range": "Name=-2:3:6",
}
_OPPOSITE = {"set": lambda v: 1 - v, "amount": lambda v: 1 - v, "probability": lambda v: 1 - v}


def parse_request(text: str | Sequence[str], classes: Sequence[str] = (), attributes: Sequence[str] = ()) -> Request:
    """Read a request against the names that a model knows (`meta["classes"]`, `meta["attributes"]`).

    text: one string or several (argparse's list). Raises UserError, one sentence each: an unknown name (with the
    three nearest), a value that is not of the forms above, `=-1`, a name asked for twice, amounts of several classes
    above 1 in all, nothing asked.
    """
    text = " ".join([text] if isinstance(text, str) else text)
    items = [item for item in re.split(r"[\s,;]+", text) if item]
    if not items:
        raise UserError(f"nothing is asked for; write for example {_example(classes, attributes)}")
    moves: dict[str, AttributeEdit] = {}
    for item in items:
        for move in _read(item, classes, attributes):
            old = moves.get(move.name)
            if old is None or (old.implied and not move.implied):
                moves[move.name] = move
            elif not move.implied:
                raise UserError(f"{move.name} is asked for twice, as {old} and as {move}; keep one")
    request = Request(tuple(moves.values()))
    asked = [move for move in request.classes if move.form in ("set", "amount") and move.value]
    if len(asked) > 1 and sum(move.value for move in asked) > 1 + 1e-9:
        listed = ", ".join(str(move) for move in asked)
        raise UserError(
            f"{listed}: a face has one expression; ask for one, or for a mixture whose amounts sum to at most 1"
        )
    return request


def parse_names(text: str | Sequence[str], classes: Sequence[str] = (), attributes: Sequence[str] = ()) -> list[str]:
    """Bare names, in any case and by alias, as the model knows them, without repeats; `all` is every one of them.

    An alias of the opposite sense gives the attribute it is read from (`Beard`: No_Beard).
    """
    text = " ".join([text] if isinstance(text, str) else text)
    names: list[str] = []
    for item in filter(None, re.split(r"[\s,;]+", text)):
        found = [*classes, *attributes] if item.lower() == "all" else [_resolve(item, classes, attributes)[0]]
        names += [name for name in found if name not in names]
    return names


def _read(item: str, classes: Sequence[str], attributes: Sequence[str]) -> list[AttributeEdit]:
    word, equals, value = item.partition("=")
    if word.lower() in GROUPS and equals:
        return _read_group(word.lower(), value.lower(), attributes)
    name, is_class, opposite = _resolve(word, classes, attributes)
    if not equals:
        if not is_class:
            raise UserError(f"{item}: say which way, {word}=1 or {word}=0")
        return [AttributeEdit(name, "set", 1.0, is_class=True)]
    move = _read_value(item, word, value.lower())
    if opposite:
        turn = _OPPOSITE.get(move[0], lambda v: -v)
        move = (move[0], *(turn(v) if v is not None else None for v in move[1:3]), *move[3:])
    return [AttributeEdit(name, *move, is_class=is_class)]


def _read_value(item: str, word: str, value: str) -> tuple:
    """The form and its numbers: (form, value, stop, num)."""
    if value in ("flip", "any"):
        return value, None, None, None
    if value == "-1":
        raise UserError(f"{item}: write {word}=0 for a face without it, or {word}=-1.0 for a step of minus one")
    if re.fullmatch(NUMBER, value):
        number = float(value)
        if number > 1:
            raise UserError(f"{item}: an amount lies between 0 and 1; a step of that size is {word}=+{value}")
        return ("set" if number in (0, 1) else "amount"), number, None, None
    if re.fullmatch(rf"[+-](?:{NUMBER})", value):
        return "step", float(value), None, None
    if match := re.fullmatch(rf"@({SIGNED})", value):
        return "absolute", float(match[1]), None, None
    if match := re.fullmatch(rf"p({NUMBER})", value):
        if not 0 < float(match[1]) < 1:
            raise UserError(f"{item}: a probability lies strictly between 0 and 1, as in {word}=p0.8")
        return "probability", float(match[1]), None, None
    if match := re.fullmatch(rf"({SIGNED}):({SIGNED}):(\d+)", value):
        if not 2 <= int(match[3]) <= 1000:
            raise UserError(f"{item}: a range is from:to:number with 2 to 1000 pictures, as in {word}=-2:3:6")
        return "range", float(match[1]), float(match[2]), int(match[3])
    forms = ", ".join(example.replace("Name", word) for example in EXAMPLES.values())
    raise UserError(f"{item}: '{value}' is no value; the forms are {forms}")


def _read_group(group: str, value: str, attributes: Sequence[str]) -> list[AttributeEdit]:
    known = [row for row in GROUPS[group] if set(row.values()) & set(attributes)]
    for row in known:
        name = row.get(value)
        if name in attributes:
            rest = [other for other in dict.fromkeys(row.values()) if other != name and other in attributes]
            return [
                AttributeEdit(name, "set", 1.0),
                *(AttributeEdit(other, "set", 0.0, implied=True) for other in rest),
            ]
    choices = [word for row in known for word, name in row.items() if name in attributes]
    raise UserError(f"{group}={value}: expected one of {', '.join(choices) or 'none, this model knows no hair'}")


def _resolve(word: str, classes: Sequence[str], attributes: Sequence[str]) -> tuple[str, bool, bool]:
    """The model's own name, whether it is a class, whether the word means its opposite."""
    key = _key(word)
    for names, is_class in ((classes, True), (attributes, False)):
        for name in names:
            if _key(name) == key:
                return name, is_class, False
    emotion = canonical(word)
    for name in classes:
        if emotion is not None and canonical(name) == emotion:
            return name, True, False
    alias = ALIASES.get(key, "")
    if alias.lstrip("-") in attributes:
        return alias.lstrip("-"), False, alias.startswith("-")
    if not classes and not attributes:
        raise UserError(f"{word}: this model knows no expression and no attribute, so none can be asked for")
    raise UserError(f"'{word}' is unknown here; the nearest names are {', '.join(_nearest(key, classes, attributes))}")


def _nearest(key: str, classes: Sequence[str], attributes: Sequence[str]) -> list[str]:
    """Three names of the model, by the likeness of the name itself or of a word that stands for it."""
    words = {_key(name): name for name in (*classes, *attributes)}
    for name in classes:
        words |= {word: name for word in SYNONYMS.get(canonical(name) or "", ()) if len(word) > 3}
    words |= {word: name.lstrip("-") for word, name in ALIASES.items() if name.lstrip("-") in attributes}
    ranked = sorted(words, key=lambda word: -difflib.SequenceMatcher(None, key, word).ratio())
    return list(dict.fromkeys(words[word] for word in ranked))[:3]


def _key(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def _decimal(value: float) -> str:
    """A signed number that is read back as a step: never the bare -1."""
    text = f"{value:+g}"
    return text if "." in text or "e" in text else f"{text}.0"


def _example(classes: Sequence[str], attributes: Sequence[str]) -> str:
    return attributes[0] + "=1" if attributes else (classes[0] if classes else "Smiling=1")

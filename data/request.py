"""The syntax of edits, the same for every method: `Smiling=1`, `Male=flip`, `happy=0.7`.

| form | read as | meaning |
| --- | --- | --- |
| `Smiling=1`, `Smiling=0` | `set` | with the attribute, without it |
| `Smiling=0.7`, `happy=0.7` | `amount` | an intensity in 0 .. 1 |
| `happy` | `set` 1 | a class needs no value |
| `Male=flip`, `Male=any` | `flip`, `any` | the opposite value; any value |
| `Smiling=+1.5`, `Smiling=-1.0` | `step` | a signed step from the current value, in the method's unit |
| `Smiling=@2` | `absolute` | the new value, in the method's unit |
| `Smiling=p0.8` | `probability` | the new probability of a classifier |
| `Smiling=-2:3:6` | `range` | a strip of images: first value, last value, number of images |
| `hair=blond` | `set` 1 | one of a group; the other attributes of the group are `set` 0 and marked as implied |

Blanks, commas or semicolons separate the items. Upper and lower case are equal. There are aliases of attributes
(`Beard=1` is `No_Beard=0`) and synonyms of expressions (`happiness`). The value `-1` is an error, because it can mean
"without" (as in CelebA's files) or a step.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data.emotions import SYNONYMS, canonical
from engine.errors import UserError

FORMS = ("set", "amount", "flip", "any", "step", "absolute", "probability", "range")

# word -> attribute; a leading "-" means the opposite of the attribute.
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
    """An edit of one attribute or class.

    `value` is 0 or 1 (`set`), the amount, step, absolute value or probability. For a `range` it is the first value,
    `stop` the last and `num` the number of values. It is None for `flip` and `any`.
    """

    name: str  # as the model knows it
    form: str  # one of FORMS
    value: float | None = None
    stop: float | None = None
    num: int | None = None
    is_class: bool = False  # an expression class, not an attribute
    implied: bool = False  # follows from another edit (hair=blond: not black)

    def values(self) -> list[float]:
        """All values: evenly spaced with both ends for a `range`, one value otherwise, none for `flip` and `any`."""
        if self.value is not None and self.stop is not None and self.num is not None:
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
    """Edits in the given order. `str(request)` is a canonical text; `parse_request` reads it to an equal request."""

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
        """Names of the attributes and classes, in order."""
        return [move.name for move in self.moves]

    @property
    def classes(self) -> tuple[AttributeEdit, ...]:
        """The edits of expression classes."""
        return tuple(move for move in self.moves if move.is_class)

    @property
    def attributes(self) -> tuple[AttributeEdit, ...]:
        """The edits of attributes."""
        return tuple(move for move in self.moves if not move.is_class)

    def require(self, *forms: str, method: str) -> Request:
        """Return self. Raise a UserError if `method` does not support the form of an edit; `forms` are supported."""
        assert set(forms) <= set(FORMS), forms
        for move in self.moves:
            if move.form not in forms:
                can = ", ".join(EXAMPLES[form] for form in forms)
                raise UserError(f"{move}: {method} cannot do this; it supports {can}")
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
    """Parse a request with the names of a model (`meta["classes"]`, `meta["attributes"]`).

    Args:
        text: one string, or a list of strings as from argparse.
        classes, attributes: the names that the model has.

    Raises:
        UserError: the text is empty, a name is unknown or given twice, a value has none of the forms above, or the
            amounts of several classes sum to more than 1.
    """
    text = " ".join([text] if isinstance(text, str) else text)
    items = [item for item in re.split(r"[\s,;]+", text) if item]
    if not items:
        raise UserError(f"the request is empty; expected for example {_example(classes, attributes)}")
    moves: dict[str, AttributeEdit] = {}
    for item in items:
        for move in _read(item, classes, attributes):
            old = moves.get(move.name)
            if old is None or (old.implied and not move.implied):
                moves[move.name] = move
            elif not move.implied:
                raise UserError(f"{move.name} is given twice, as {old} and as {move}; remove one of them")
    request = Request(tuple(moves.values()))
    amounts = [move for move in request.classes if move.form in ("set", "amount") and move.value]
    if len(amounts) > 1 and sum(move.value or 0.0 for move in amounts) > 1 + 1e-9:
        listed = ", ".join(str(move) for move in amounts)
        raise UserError(
            f"{listed}: a face has one expression. Name one class, or a mixture whose amounts sum to at most 1."
        )
    return request


def parse_names(text: str | Sequence[str], classes: Sequence[str] = (), attributes: Sequence[str] = ()) -> list[str]:
    """Parse names without values; the result has the model's names without repeats. `all` means all names.

    Aliases work as in `parse_request`. An alias with the opposite meaning gives its attribute (`Beard`: No_Beard).
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
    word, equals, value = _smile(word, equals, value, classes, attributes)
    name, is_class, opposite = _resolve(word, classes, attributes)
    if not equals:
        if not is_class:
            raise UserError(f"{item}: an attribute needs a value; expected {word}=1 or {word}=0")
        return [AttributeEdit(name, "set", 1.0, is_class=True)]
    move = _read_value(item, word, value.lower())
    if opposite:
        invert = _OPPOSITE.get(move[0], lambda v: -v)
        move = (move[0], *(invert(v) if v is not None else None for v in move[1:3]), *move[3:])
    return [AttributeEdit(name, *move, is_class=is_class)]


def _smile(
    word: str, equals: str, value: str, classes: Sequence[str], attributes: Sequence[str]
) -> tuple[str, str, str]:
    """A smile in the words of the model: the attribute Smiling and the expression happy name the same edit.

    happy and neutral of a model without expressions become Smiling=1 and Smiling=0; Smiling=1 and Smiling=0 of a model
    without this attribute become happy and neutral. Everything else is returned as it is.
    """
    known, asked = {canonical(name) for name in classes}, canonical(word)
    if not classes and "Smiling" in attributes and asked in ("happy", "neutral") and not equals:
        return "Smiling", "=", str(int(asked == "happy"))
    smiling = _key(word) in ("smiling", "smile") and "Smiling" not in attributes
    if smiling and value in ("0", "1") and {"happy", "neutral"} <= known:
        return "happy" if value == "1" else "neutral", "", ""
    return word, equals, value


def _read_value(item: str, word: str, value: str) -> tuple:
    """The form and its numbers: (form, value, stop, num)."""
    if value in ("flip", "any"):
        return value, None, None, None
    if value == "-1":
        raise UserError(f"{item}: write {word}=0 for a face without it, or {word}=-1.0 for a step of minus one")
    if re.fullmatch(NUMBER, value):
        number = float(value)
        if number > 1:
            raise UserError(f"{item}: expected an amount in 0 .. 1; for a step of this size, use {word}=+{value}")
        return ("set" if number in (0, 1) else "amount"), number, None, None
    if re.fullmatch(rf"[+-](?:{NUMBER})", value):
        return "step", float(value), None, None
    if match := re.fullmatch(rf"@({SIGNED})", value):
        return "absolute", float(match[1]), None, None
    if match := re.fullmatch(rf"p({NUMBER})", value):
        if not 0 < float(match[1]) < 1:
            raise UserError(f"{item}: expected a probability between 0 and 1, as in {word}=p0.8")
        return "probability", float(match[1]), None, None
    if match := re.fullmatch(rf"({SIGNED}):({SIGNED}):(\d+)", value):
        if not 2 <= int(match[3]) <= 1000:
            raise UserError(f"{item}: expected a range first:last:number with 2 to 1000 images, as in {word}=-2:3:6")
        return "range", float(match[1]), float(match[2]), int(match[3])
    forms = ", ".join(example.replace("Name", word) for example in EXAMPLES.values())
    raise UserError(f"{item}: '{value}' is not a valid value; expected one of {forms}")


def _read_group(group: str, value: str, attributes: Sequence[str]) -> list[AttributeEdit]:
    known = [row for row in GROUPS[group] if set(row.values()) & set(attributes)]
    for row in known:
        name = row.get(value)
        if name is not None and name in attributes:
            rest = [other for other in dict.fromkeys(row.values()) if other != name and other in attributes]
            return [
                AttributeEdit(name, "set", 1.0),
                *(AttributeEdit(other, "set", 0.0, implied=True) for other in rest),
            ]
    choices = [word for row in known for word, name in row.items() if name in attributes]
    raise UserError(f"{group}={value}: expected one of {', '.join(choices) or 'none, this model knows no hair'}")


def _resolve(word: str, classes: Sequence[str], attributes: Sequence[str]) -> tuple[str, bool, bool]:
    """The model's name for `word`, whether it is a class, and whether `word` means the opposite of the attribute."""
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
        raise UserError(f"{word}: this model has no expressions and no attributes, so it cannot do this edit")
    raise UserError(f"'{word}' is unknown here; the nearest names are {', '.join(_nearest(key, classes, attributes))}")


def _nearest(key: str, classes: Sequence[str], attributes: Sequence[str]) -> list[str]:
    """The three names of the model that are most similar to `key`, by name, synonym or alias."""
    words = {_key(name): name for name in (*classes, *attributes)}
    for name in classes:
        words |= {word: name for word in SYNONYMS.get(canonical(name) or "", ()) if len(word) > 3}
    words |= {word: name.lstrip("-") for word, name in ALIASES.items() if name.lstrip("-") in attributes}
    ranked = sorted(words, key=lambda word: -difflib.SequenceMatcher(None, key, word).ratio())
    return list(dict.fromkeys(words[word] for word in ranked))[:3]


def _key(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def _decimal(value: float) -> str:
    """A signed number with a decimal point, so that it is parsed as a step."""
    text = f"{value:+g}"
    return text if "." in text or "e" in text else f"{text}.0"


def _example(classes: Sequence[str], attributes: Sequence[str]) -> str:
    return attributes[0] + "=1" if attributes else (classes[0] if classes else "Smiling=1")

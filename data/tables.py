"""Tables that people write: CSV files of any usual encoding and separator, with the line of every row for messages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UserError

SEPARATORS = (",", ";", "\t")


@dataclass
class Table:
    """The rows of a CSV file as texts: {column: value} and the line each of them stands on."""

    path: Path
    columns: list[str]
    rows: list[dict[str, str]]
    lines: list[int]
    separator: str


def read_text(path: Path) -> str:
    """A text file as UTF-8 or UTF-16 (told by its first bytes), else as Windows' Western encoding.

    Raises:
        UserError: the file cannot be read, or is no text.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encodings = ("utf-16",)
    else:
        encodings = ("utf-8-sig", "cp1252", "latin-1")
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise UserError(f"{path}: is no text file; expected text in UTF-8")


def read_csv(path: Path, columns: list[str]) -> Table:
    """A CSV file with a header that names at least `columns` (in any case and order; blanks around names are dropped).

    Commas, semicolons or tabs separate the cells: whichever finds most of the columns in line 1.

    Raises:
        UserError: a missing column, a row of another length, or quotes that do not close; names the line.
    """
    import io

    import pandas

    text = read_text(path)
    first = (text.splitlines() or [""])[0]
    names = lambda separator: [cell.strip().strip('"').strip().lower() for cell in first.split(separator)]  # noqa: E731
    separator = max(SEPARATORS, key=lambda s: len({c.lower() for c in columns} & set(names(s))))
    missing = [name for name in columns if name.lower() not in names(separator)]
    if missing:
        raise UserError(f"{path}, line 1: the column '{missing[0]}' is missing")
    try:
        frame = pandas.read_csv(
            io.StringIO(text), sep=separator, header=None, dtype=str, na_filter=False, skip_blank_lines=False
        )
    except pandas.errors.ParserError as error:
        raise UserError(f"{path}: is no table ({str(error).strip().splitlines()[-1]})") from None
    return _table(Path(path), frame, columns, separator)


def _table(path: Path, frame: Any, columns: list[str], separator: str) -> Table:
    """Rows by column; the names as `columns` writes them."""
    as_asked = {name.lower(): name for name in columns}
    header = [str(name).strip() for name in frame.iloc[0]]
    header = [as_asked.get(name.lower(), name) for name in header]
    rows, lines, line = [], [], 1
    for cells in frame.itertuples(index=False):
        if line > 1 and any(cells):  # a row that ends early has empty cells
            rows.append({name: text.strip() for name, text in zip(header, cells, strict=True)})
            lines.append(line)
        line += 1 + sum(text.count("\n") for text in cells)
    return Table(path, header, rows, lines, separator)

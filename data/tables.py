"""Read CSV files in any usual encoding and with any usual separator. Each row keeps its line number for messages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UserError

SEPARATORS = (",", ";", "\t")


@dataclass
class Table:
    """The rows of a CSV file as {column: text}, and the line number of each row."""

    path: Path
    columns: list[str]
    rows: list[dict[str, str]]
    lines: list[int]
    separator: str


def read_text(path: Path) -> str:
    """Read a text file as UTF-16 (if it starts with that byte-order mark), else UTF-8, Windows-1252 or Latin-1.

    The first encoding that decodes all bytes is used. A byte-order mark is removed.

    Raises:
        UserError: the file cannot be read, or it is not text (it has a NUL, or invalid UTF-16).
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
    raise UserError(f"{path}: this is not a text file; expected text in UTF-8")


def read_csv(path: Path, columns: list[str]) -> Table:
    """Read a CSV file whose header names at least `columns`, in any case and order. Cells are stripped of blanks.

    The separator is a comma, a semicolon or a tab: the one that gives most of `columns` in line 1.

    Raises:
        UserError: a column is missing, a row has too many cells, or a quote is not closed. The message has the line.
    """
    import io

    import pandas

    text = read_text(path)
    first = (text.splitlines() or [""])[0]
    names = lambda separator: [cell.strip().strip('"').strip().lower() for cell in first.split(separator)]  # noqa: E731
    separator = max(SEPARATORS, key=lambda s: len({c.lower() for c in columns} & set(names(s))))
    missing = [name for name in columns if name.lower() not in names(separator)]
    if missing:
        raise UserError(f"{path}, line 1: the column '{missing[0]}' is missing; expected {', '.join(columns)}")
    try:
        frame = pandas.read_csv(
            io.StringIO(text), sep=separator, header=None, dtype=str, na_filter=False, skip_blank_lines=False
        )
    except pandas.errors.ParserError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{path}: expected a CSV table with equally long rows ({reason})") from None
    return _table(Path(path), frame, columns, separator)


def _table(path: Path, frame: Any, columns: list[str], separator: str) -> Table:
    """The rows of a frame; column names have the spelling of `columns`."""
    spelling = {name.lower(): name for name in columns}
    header = [str(name).strip() for name in frame.iloc[0]]
    header = [spelling.get(name.lower(), name) for name in header]
    rows, lines, line = [], [], 1
    for cells in frame.itertuples(index=False):
        if line > 1 and any(cells):  # a short row is filled with empty cells
            rows.append({name: text.strip() for name, text in zip(header, cells, strict=True)})
            lines.append(line)
        line += 1 + sum(text.count("\n") for text in cells)
    return Table(path, header, rows, lines, separator)

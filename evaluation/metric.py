"""One figure: a number, how many images it is of, and what stands beside it so that it can be read."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

SMALL = 2048  # images; figures of distributions over fewer carry a warning


@dataclass
class Metric:
    """`key` is the same for all methods and sizes; `name` says everything that the number depends on."""

    key: str
    name: str
    value: float
    better: Literal["high", "low", ""]  # "": neither, it is read against what stands beside it
    n: int  # images (or pairs) behind it
    beside: dict[str, float] = field(default_factory=dict)  # {"real": ..., "no edit": ..., "chance": ...}
    judge: str = ""  # run whose eyes these are
    detail: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def plain(self) -> dict:
        """For JSON: NaN and infinities become None."""
        return plain(asdict(self))


def plain(value: Any) -> Any:
    """Nested values with None for every number that is not finite."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def table(metrics: Iterable[Metric]) -> str:
    """The figures as text: name, value, n, what stands beside."""
    rows = [("figure", "value", "n", "beside it")]
    for f in metrics:
        beside = ", ".join(f"{name} {number(value)}" for name, value in f.beside.items())
        rows.append((f.name, number(f.value), str(f.n), beside))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def number(value: float | None) -> str:
    """Three significant places, no exponent for what people read; a dash for what is not known."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"

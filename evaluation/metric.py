"""A metric: its value, the number of images behind it, and reference values to compare it with."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

FEW_IMAGES = 2048  # a distance between distributions of fewer images carries a warning


@dataclass
class Metric:
    """One measured value.

    `key` is the same for all methods and image sizes. `name` also says everything that the value depends on.
    """

    key: str
    name: str
    value: float
    better: Literal["high", "low", ""]  # "": neither; compare it with the references
    n: int  # number of images (or pairs)
    references: dict[str, float] = field(default_factory=dict)  # {"real": ..., "no edit": ..., "chance": ...}
    judge: str = ""  # name of the classifier that was used
    detail: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        """The fields for JSON: NaN and infinities become None."""
        return replace_nan(asdict(self))


def replace_nan(value: Any) -> Any:
    """Nested dicts and lists with None in place of every number that is not finite."""
    if isinstance(value, dict):
        return {str(k): replace_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [replace_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def table(metrics: Iterable[Metric]) -> str:
    """The metrics as text: name, value, n, references."""
    rows = [("metric", "value", "n", "references")]
    for metric in metrics:
        references = ", ".join(f"{name} {number(value)}" for name, value in metric.references.items())
        rows.append((metric.name, number(metric.value), str(metric.n), references))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def number(value: float | None) -> str:
    """One to three decimals, without an exponent; a dash for an unknown value."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"

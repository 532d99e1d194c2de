"""Plots of a comparison: trade-off over strength, confusion matrices, training curves."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from evaluation.gallery import Entry

DPI = 110


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(1, columns, figsize=(width, height), dpi=DPI, squeeze=False, layout="constrained")


def _picture(figure: Any) -> Image.Image:
    from matplotlib import pyplot

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    pyplot.close(figure)
    return Image.open(buffer).convert("RGB")


def tradeoff(entries: list[Entry]) -> Image.Image | None:
    """Target accuracy over identity similarity, one line per method with a point per strength; None without edits."""
    lines = [(entry, entry.result["tradeoff"]) for entry in entries if entry.result["tradeoff"]]
    if not lines:
        return None
    figure, axes = _figure(6.4, 4.6)
    axis = axes[0, 0]
    for entry, points in lines:
        style = dict(marker="s", linestyle=":") if entry.is_baseline else dict(marker="o", linestyle="-")
        line = axis.plot(
            [p["identity similarity"] for p in points],
            [p["target accuracy"] for p in points],
            label=entry.name,
            **style,
        )
        for p in points if len(points) > 1 else ():
            place = (p["identity similarity"], p["target accuracy"])
            axis.annotate(f"{p['strength']:g}", place, xytext=(4, 4), textcoords="offset points", fontsize=8,
                          color=line[0].get_color())  # fmt: skip
    cosine = any(True for _ in lines[0][0].eval_data.judges_with("identity"))
    axis.set_xlabel("identity similarity (cosine)" if cosine else "SSIM to the source")
    axis.set_ylabel("target accuracy")
    axis.set_ylim(-0.03, 1.03)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return _picture(figure)


def confusions(entries: list[Entry]) -> Image.Image | None:
    """Confusion matrices: target (rows), class that the judge predicts (columns), rows sum to 1; None without edits."""
    found = [(e.name, f.detail) for e in entries for f in e.result["metrics"] if f.key == "target accuracy"]
    found = found or [(e.name, f.detail) for e in entries for f in e.result["metrics"] if f.key == "sample accuracy"]
    if not found:
        return None
    figure, axes = _figure(3.6 * len(found) + 0.4, 3.7, len(found))
    for axis, (name, detail) in zip(axes[0], found, strict=True):
        counts, classes = detail["confusion"], detail["classes"]
        shares = [[n / max(sum(row), 1) for n in row] for row in counts]
        axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        axis.set_xticks(range(len(classes)), classes, rotation=60, fontsize=7)
        axis.set_yticks(range(len(classes)), classes, fontsize=7)
        for i, row in enumerate(shares):
            for j, share in enumerate(row):
                if share >= 0.05:
                    axis.text(j, i, f"{share:.2f}"[1:] if share < 1 else "1", ha="center", va="center", fontsize=6,
                              color="white" if share > 0.5 else "black")  # fmt: skip
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("predicted", fontsize=8)
    axes[0, 0].set_ylabel("target", fontsize=8)
    return _picture(figure)


def training_curves(entries: list[Entry]) -> Image.Image | None:
    """Logged losses over steps, one panel per run, at most four keys; None without logs."""
    runs = [(e.name, Path(e.run) / "log.jsonl") for e in entries if e.run and (Path(e.run) / "log.jsonl").is_file()]
    if not runs:
        return None
    figure, axes = _figure(3.9 * len(runs) + 0.4, 3.2, len(runs))
    for axis, (name, path) in zip(axes[0], runs, strict=True):
        rows = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        keys = [k for k in dict.fromkeys(k for row in rows for k in row) if _is_loss(k)][:4]
        for key in keys:
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
            axis.plot(*zip(*points, strict=True), label=key, linewidth=1)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    return _picture(figure)


def _is_loss(key: str) -> bool:
    return key.split("/")[0] in ("loss", "recon", "kl", "bpd", "nll", "D", "G") or key in ("elbo", "mse")

"""Plots of a comparison: accuracy against PSNR, trade-off over strength, confusion matrices, training curves."""

import io
from pathlib import Path
from typing import Any

from PIL import Image

from evaluation.gallery import Entry
from evaluation.pictures import MAX_PSNR
from evaluation.run_log import read_log

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


def scatter(entries: list[Entry]) -> Image.Image | None:
    """Target accuracy against PSNR inside, one point per method or baseline; None if no ground truth is known.

    The ground truth has the maximum PSNR, far from all others: its accuracy is a line.
    """
    points = []
    for entry in entries:
        by = {metric.key: metric.value for metric in entry.result["metrics"]}
        accuracy = by.get("target accuracy", by.get("attribute target accuracy"))
        if accuracy is not None and "PSNR inside" in by:
            points.append((entry, by["PSNR inside"], accuracy))
    if not points:
        return None
    figure, axes = _figure(6.4, 4.6)
    axis = axes[0, 0]
    for entry, psnr, accuracy in points:
        if psnr >= MAX_PSNR:
            axis.axhline(accuracy, color="0.5", linestyle="--", linewidth=1)
            axis.annotate(entry.name, (1, accuracy), xycoords=("axes fraction", "data"), xytext=(-4, -12),
                          textcoords="offset points", ha="right", fontsize=8, color="0.4")  # fmt: skip
            continue
        color, marker = ("0.45", "s") if entry.is_baseline else (None, "o")
        dots = axis.plot([psnr], [accuracy], marker=marker, color=color, linestyle="", markersize=7)
        axis.annotate(entry.name, (psnr, accuracy), xytext=(6, 4), textcoords="offset points", fontsize=8,
                      color=dots[0].get_color())  # fmt: skip
    axis.set_xlabel("PSNR to the ground truth in the edited area, dB")
    axis.set_ylabel("target accuracy")
    axis.set_ylim(-0.03, 1.05)
    axis.margins(x=0.2)
    axis.grid(alpha=0.3)
    return _picture(figure)


def tradeoff(entries: list[Entry]) -> Image.Image | None:
    """Target accuracy over identity similarity, one line per method with a point per strength.

    None without edits at several strengths.
    """
    lines = [(entry, entry.result["tradeoff"]) for entry in entries if entry.result["tradeoff"]]
    if not any(len(points) > 1 for _, points in lines):
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


def confusion(entry: Entry) -> Image.Image | None:
    """Confusion matrix: target (rows), class that the judge predicts (columns), rows sum to 1; None without classes."""
    by = {metric.key: metric.detail for metric in entry.result["metrics"]}
    detail = by.get("target accuracy", by.get("sample accuracy"))
    return None if detail is None else confusion_picture(detail["confusion"], detail["classes"], entry.name, "target")


def confusion_picture(counts: list[list[int]], classes: list[str], title: str, row: str) -> Image.Image:
    """A confusion matrix, rows scaled to sum to 1. row: what a row is, such as target."""
    figure, axes = _figure(3.5, 3.4)
    axis = axes[0, 0]
    shares = [[n / max(sum(row), 1) for n in row] for row in counts]
    axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axis.set_xticks(range(len(classes)), classes, rotation=60, fontsize=7)
    axis.set_yticks(range(len(classes)), classes, fontsize=7)
    for i, row in enumerate(shares):
        for j, share in enumerate(row):
            if share >= 0.05:
                axis.text(j, i, f"{share:.2f}"[1:] if share < 0.995 else "1", ha="center", va="center", fontsize=6,
                          color="white" if share > 0.5 else "black")  # fmt: skip
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("predicted", fontsize=8)
    axis.set_ylabel(row, fontsize=8)
    return _picture(figure)


def training_curves(entries: list[Entry]) -> Image.Image | None:
    """Logged losses over steps, one panel per run, at most four keys; None without logs."""
    runs = [(e.name, Path(e.run)) for e in entries if e.run and (Path(e.run) / "log.jsonl").is_file()]
    if not runs:
        return None
    figure, axes = _figure(3.9 * len(runs) + 0.4, 3.2, len(runs))
    for axis, (name, path) in zip(axes[0], runs, strict=True):
        log = read_log(path)
        for key in [k for k in log if _is_loss(k)][:4]:
            points = log[["step", key]].dropna()
            axis.plot(points["step"], points[key], label=key, linewidth=1)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    return _picture(figure)


def _is_loss(key: str) -> bool:
    return key.split("/")[0] in ("loss", "recon", "kl", "bpd", "nll", "D", "G") or key in ("elbo", "mse")

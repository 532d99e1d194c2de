"""The report of a comparison: an HTML page with embedded images, and the same report as Markdown."""

import base64
import html
import io
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from engine.files import atomic_text, atomic_write
from engine.grids import to_pil
from evaluation import gallery, plots
from evaluation.gallery import Entry, FaceRows
from evaluation.metric import Metric, number

# Columns of the first table. The second table has all metrics.
MAIN_METRICS = (
    *("target accuracy", "target gain", "attribute target accuracy", "leakage", "identity similarity"),
    *("edit verification rate", "gap closed", "PSNR inside", "edit face-FID", "edit sharpness"),
    *("sample accuracy", "attribute accuracy", "sample face-FID", "reconstruction PSNR", "reconstruction accuracy"),
)
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:1240px;padding:1.2rem;color:#1b1b1b;background:#fff}
h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.2rem;margin:2rem 0 .5rem;border-bottom:1px solid #ddd}
h3{font-size:1rem;margin:1.2rem 0 .3rem}img{image-rendering:pixelated}
img.plot{image-rendering:auto;max-width:100%;height:auto}.plots{display:flex;flex-wrap:wrap;gap:8px}
.scroll{overflow-x:auto;max-width:100%}table{border-collapse:collapse;font-size:13px}
th,td{padding:3px 9px;text-align:right;border-bottom:1px solid #e6e6e6;white-space:nowrap}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:#fff;z-index:1}
th,th:first-child{background:#f4f4f4;vertical-align:bottom}td[title]{cursor:help}
tr.baseline{color:#666;font-style:italic}
table.faces{font-size:12px;margin-bottom:1.4rem}table.faces th,table.faces td{padding:2px 3px;border:0;
text-align:center;background:#fff}table.faces tr>:first-child{text-align:left;padding-right:8px;
white-space:normal;max-width:7.5rem;font-weight:600}
table.faces img{display:block;width:80px;height:80px;margin:0 auto}table.faces .hit{color:#17692c}
table.faces .miss{color:#a83226}table.faces .missing{color:#888}
.alarm{background:#fde8e8;border-left:4px solid #c0392b;padding:.4rem .7rem;margin:.3rem 0}
.note{color:#555;margin:.15rem 0}code,pre{background:#f6f6f6;font-size:12.5px}pre{padding:.6rem;overflow-x:auto}
summary{cursor:pointer;color:#245}
@media(max-width:600px){body{padding:.7rem}table.faces img{width:56px;height:56px}table.faces{font-size:10px}
table.faces tr>:first-child{max-width:4.6rem}}
"""
OPEN_FACES = 2  # faces of the picture that are shown before a click


@dataclass(frozen=True)
class Table:
    """A table of results that were measured before: a heading, column headings, rows of text."""

    title: str
    headings: list[str]
    rows: list[list[str]]


def write_report(
    folder: Path, entries: list[Entry], commands: list[str], tables: Sequence[Table] = (), banner: str = ""
) -> Path:
    """Write `index.html`, `report.md` and `figures/*.png` into `folder`; the path of `index.html`.

    Args:
        tables: results to show below the picture; without any, the main metrics of the entries are shown there.
        banner: a warning above everything.
    """
    faces = gallery.face_rows(entries)
    pictures = all_pictures(entries, faces)
    for name, picture in pictures.items():
        with atomic_write(folder / "figures" / f"{name}.png") as file:
            picture.save(file, format="PNG")
    atomic_text(folder / "report.md", markdown(entries, pictures, commands, tables, banner))
    atomic_text(folder / "index.html", page(entries, faces, pictures, commands, tables, banner))
    return folder / "index.html"


def all_pictures(entries: list[Entry], faces: list[FaceRows]) -> dict[str, Image.Image]:
    """{name: image} of all images of the report, in their order."""
    methods = [entry for entry in entries if not entry.is_baseline]
    found = {f"face_{i}": sheet for i, sheet in enumerate(gallery.face_sheets(faces))}
    found |= {f"samples_{slug(e.name)}": gallery.sample_sheet(e) for e in methods}
    found |= {"plot_scatter": plots.scatter(entries), "plot_tradeoff": plots.tradeoff(entries)}
    found |= {f"confusion_{slug(e.name)}": plots.confusion(e) for e in entries if e.name not in gallery.NOT_SHOWN}
    found |= {f"worst_{slug(e.name)}": gallery.worst_sheet(e) for e in methods}
    found |= {"training": plots.training_curves(methods)}
    return {name: picture for name, picture in found.items() if picture is not None}


def slug(name: str) -> str:
    """A name as a part of a file name: characters other than letters and digits become _. Names may become equal."""
    return "".join(c if c.isalnum() else "_" for c in name)


def cell_values(entries: list[Entry]) -> tuple[list[str], dict[str, list[Metric | None]]]:
    """The metric keys in their order, and {key: one Metric per entry, None = not measured}."""
    keys = list(dict.fromkeys(f.key for e in entries for f in e.result["metrics"]))
    order = [k for k in MAIN_METRICS if k in keys] + [k for k in keys if k not in MAIN_METRICS]
    by = [{f.key: f for f in reversed(e.result["metrics"])} for e in entries]
    return order, {key: [table.get(key) for table in by] for key in order}


def best_of(metrics: list[Metric | None], entries: list[Entry]) -> set[int]:
    """Indices of the methods with the best value; baselines are left out; empty for fewer than two methods."""
    candidates = [
        i
        for i, (f, e) in enumerate(zip(metrics, entries, strict=True))
        if f is not None and f.better and not e.is_baseline
    ]
    if len(candidates) < 2:
        return set()
    value = (max if metrics[candidates[0]].better == "high" else min)(metrics[i].value for i in candidates)
    return {i for i in candidates if metrics[i].value == value}


def real_value(metrics: list[Metric | None]) -> float | None:
    """The value of real faces, None if unknown."""
    return next((f.references["real"] for f in metrics if f is not None and "real" in f.references), None)


def page(
    entries: list[Entry],
    faces: list[FaceRows],
    pictures: dict[str, Image.Image],
    commands: list[str],
    tables: Sequence[Table] = (),
    banner: str = "",
) -> str:
    """The whole HTML page: picture, results, plots, worst edits, all metrics, commands."""
    esc = html.escape
    image = lambda name, css="": f'<img class="{css}" alt="{name}" src="{data_uri(pictures[name])}">'  # noqa: E731
    group = lambda prefix: [name for name in pictures if name.startswith(prefix)]  # noqa: E731
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Comparison</title><style>{STYLE}</style>",
        f"<h1>{esc(', '.join(e.name for e in entries if not e.is_baseline))}</h1>",
        *([f"<div class=alarm>{esc(banner)}</div>"] if banner else []),
        *picture_section(faces),
        "<h2>Results</h2>",
        *(text_table(table) for table in tables),
        *([] if tables else [html_table(entries, main_only=True), f"<p class=note>{esc(legend())}</p>"]),
        f"<p class=note>{esc(head_line(entries))}</p>",
        *(f"<div class=alarm>{esc(e.name)}: {esc(alarm)}</div>" for e in entries for alarm in e.result["alarms"]),
    ]
    if group("plot_"):
        parts += ["<h2>Target accuracy against the ground truth</h2>", *(image(n, "plot") for n in group("plot_"))]
    if group("confusion_"):
        parts += ["<h2>Confusion matrices</h2><div class=plots>", *(image(n, "plot") for n in group("confusion_"))]
        parts.append("</div>")
    worst = {e.name: f"worst_{slug(e.name)}" for e in entries if f"worst_{slug(e.name)}" in pictures}
    parts += ["<h2>Worst edits</h2>"] if worst else []
    parts += [f"<h3>{esc(e)}</h3><div class=scroll>{image(name)}</div>" for e, name in worst.items()]
    for name in group("samples_"):
        heading = esc(name.replace("samples_", "Samples of "))
        parts.append(f"<h2>{heading}</h2><div class=scroll>{image(name)}</div>")
    parts += ["<h2>Training</h2>", f"<div class=scroll>{image('training')}</div>"] if "training" in pictures else []
    parts += ["<h2>All metrics</h2>", html_table(entries, main_only=False), f"<p class=note>{esc(legend())}</p>"]
    remarks = dict.fromkeys(f"{e.name}: {n}" for e in entries for n in [*e.result["notes"], *e.result["warnings"]])
    parts += [f"<p class=note>{esc(remark)}</p>" for remark in remarks]
    parts += ["<h2>Commands</h2>", f"<pre>{esc(chr(10).join(commands))}</pre>"]
    return "\n".join([*parts, f"<p class=note>{esc(versions())}</p></html>"])


def picture_section(faces: list[FaceRows]) -> list[str]:
    """The faces under every method; the first ones open, the others behind a click."""
    if not faces:
        return []
    parts = ["<h2>The same test faces under every method</h2>"]
    parts += ["<p class=note>Below each face: the class that the judge predicts, with its probability.</p>"]
    parts += [face_table(face) for face in faces[:OPEN_FACES]]
    if faces[OPEN_FACES:]:
        parts.append(f"<details><summary>{len(faces) - OPEN_FACES} more faces</summary>")
        parts += [*(face_table(face) for face in faces[OPEN_FACES:]), "</details>"]
    return parts


def face_table(face: FaceRows) -> str:
    """One face as an HTML table."""
    esc, rows = html.escape, []
    for name, tiles in face.rows:
        cells = []
        for tile in tiles:
            if tile.image is None:
                cells.append("<td class=missing>not possible</td>")
                continue
            css = {None: "", True: " class=hit", False: " class=miss"}[tile.correct]
            mark = {None: "", True: "✓ ", False: "✗ "}[tile.correct]
            picture = f'<img alt="{esc(tile.verdict, quote=True)}" src="{data_uri(to_pil(tile.image))}">'
            cells.append(f"<td{css}>{picture}{mark}{esc(tile.verdict)}</td>")
        rows.append(f"<tr><td>{esc(name)}</td>{''.join(cells)}</tr>")
    head = "<tr><th></th>" + "".join(f"<th>{esc(column)}</th>" for column in face.columns) + "</tr>"
    return f"<div class=scroll><table class=faces>{head}{''.join(rows)}</table></div>"


def text_table(table: Table) -> str:
    """A table of results as HTML."""
    esc = html.escape
    head = "<tr>" + "".join(f"<th>{esc(text)}</th>" for text in table.headings) + "</tr>"
    rows = ["<tr>" + "".join(f"<td>{esc(text)}</td>" for text in row) + "</tr>" for row in table.rows]
    return f"<h3>{esc(table.title)}</h3><div class=scroll><table>{head}{''.join(rows)}</table></div>"


def html_table(entries: list[Entry], main_only: bool) -> str:
    """main_only: one row per method, baseline and real faces. Otherwise: one row per metric, all metrics."""
    esc = html.escape
    keys, values = cell_values(entries)

    def cell(key: str, i: int) -> str:
        metric = values[key][i]
        if metric is None:
            return "<td>-</td>"
        text = number(metric.value)
        text = f"<b>{text}</b>" if i in best_of(values[key], entries) else text
        references = ", ".join(f"{n} {number(v)}" for n, v in metric.references.items())
        tip = f"{metric.name}; n {metric.n}; references: {references or '-'}; {entries[i].command}"
        return f'<td title="{esc(tip, quote=True)}">{text}</td>'

    if main_only:
        keys = [k for k in keys if k in MAIN_METRICS]
        rows = ["<tr><th>" + "".join(f"<th>{esc(k).replace(' ', '<br>')}{arrow(values[k])}" for k in keys)]
        for i, e in enumerate(entries):
            css = " class=baseline" if e.is_baseline else ""
            rows.append(f"<tr{css}><td>{esc(e.name)}</td>" + "".join(cell(k, i) for k in keys))
        rows.append(
            "<tr class=baseline><td>real faces</td>"
            + "".join(f"<td>{number(real_value(values[k]))}</td>" for k in keys)
        )
    else:
        rows = ["<tr><th>" + "".join(f"<th>{esc(e.name)}" for e in entries) + "<th>real faces"]
        for k in keys:
            cells = "".join(cell(k, i) for i in range(len(entries)))
            rows.append(f"<tr><td>{esc(k)}{arrow(values[k])}</td>{cells}<td>{number(real_value(values[k]))}</td>")
    return "<div class=scroll><table>" + "\n".join(rows) + "</table></div>"


def arrow(metrics: list[Metric | None]) -> str:
    """An arrow in the direction of better values."""
    better = next((f.better for f in metrics if f is not None), "")
    return {"high": " ↑", "low": " ↓", "": ""}[better]


def head_line(entries: list[Entry]) -> str:
    """Date, judges, real faces and image size, as one line."""
    first = entries[0].result
    judges = ", ".join(f"{j['name']} ({', '.join(j['heads'])}; {judge_accuracy(j)})" for j in first["judges"])
    real = f"real faces: {first['n_real']} of {first['real']}"
    return f"{time.strftime('%Y-%m-%d')}; judges: {judges}; {real}; {first['image_size']} px"


def judge_accuracy(judge: dict) -> str:
    """The metrics of a judge on real test faces, as text."""
    texts = [
        f"{head} {name} {metrics[name]:.3f}"
        for head, metrics in judge["test"].items()
        for name in ("accuracy", "nme", "rate")
        if metrics.get(name) is not None
    ]
    return "on real test faces: " + ", ".join(texts) if texts else "not measured"


def legend() -> str:
    """The legend of the tables."""
    return (
        "Bold: the best method, without baselines. ↑ higher is better, ↓ lower is better; without an arrow, a value "
        "near that of real faces is good. A tooltip gives the definition, the number of images and the command. "
        "No edit has a perfect identity similarity, so compare it together with target accuracy and target gain."
    )


def markdown(
    entries: list[Entry],
    pictures: dict[str, Image.Image],
    commands: list[str],
    tables: Sequence[Table] = (),
    banner: str = "",
) -> str:
    """The report as Markdown."""
    keys, values = cell_values(entries)
    images = lambda *prefixes: [f"![{name}](figures/{name}.png)" for name in pictures if name.startswith(prefixes)]  # noqa: E731
    lines = [f"# {', '.join(e.name for e in entries if not e.is_baseline)}", ""]
    lines += [f"> **{banner}**", ""] if banner else []
    lines += [*images("face_"), ""]
    for table in tables:
        lines += [f"## {table.title}", "", "| " + " | ".join(table.headings) + " |"]
        lines.append("| --- |" + " ---: |" * (len(table.headings) - 1))
        lines += [*("| " + " | ".join(row) + " |" for row in table.rows), ""]
    lines += [head_line(entries), ""]
    lines += [f"> **Alarm**, {e.name}: {alarm}" for e in entries for alarm in e.result["alarms"]] + [""]
    lines += [*images("plot_", "confusion_"), ""]
    for e in entries:
        if (name := f"worst_{slug(e.name)}") in pictures:
            lines += [f"## Worst edits of {e.name}", "", f"![{name}](figures/{name}.png)", ""]
    lines += [*images("samples_", "training"), ""]
    lines += [
        "## All metrics",
        "",
        legend(),
        "",
        "| metric | " + " | ".join(e.name for e in entries) + " | real faces |",
    ]
    lines.append("| --- |" + " ---: |" * (len(entries) + 1))
    for k in keys:
        best = best_of(values[k], entries)
        texts = [
            "-" if f is None else f"**{number(f.value)}**" if i in best else number(f.value)
            for i, f in enumerate(values[k])
        ]
        lines.append(f"| {k}{arrow(values[k])} | {' | '.join(texts)} | {number(real_value(values[k]))} |")
    lines += ["", "Definitions:", ""]
    lines += [f"- {k}: {next(f.name for f in values[k] if f is not None)}" for k in keys]
    remarks = dict.fromkeys(f"- {e.name}: {n}" for e in entries for n in [*e.result["notes"], *e.result["warnings"]])
    lines += ["", *remarks, "", "## Commands", "", "```", *commands, "```", "", versions(), ""]
    return "\n".join(lines)


def versions() -> str:
    """Versions and hardware, as text."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return f"Python {platform.python_version()}, torch {torch.__version__}, {device}"


def data_uri(picture: Image.Image) -> str:
    """An image as a data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

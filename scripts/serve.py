"""A web page: a photo edited by every method, side by side.

    python scripts/serve.py [--runs runs/vae/celeba64 ...] [--port 7860]

Default: all releases in pretrained/. The page works offline and is served on this computer only, unless --host says
otherwise. A photo is deleted as soon as it is read; faces and results stay in memory. It needs the extra `web`.
"""

import argparse
import base64
import html
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from data import synthetic
from editing.paint import DETAILS
from editing.release import SUFFIX, read_about, unpacked
from editing.side_by_side import Photo, Result, SideBySide, cut_face, read_upload, strip
from engine import UserError
from engine.errors import exit_on_user_error
from families import open_editor

ROOT = Path(__file__).resolve().parent.parent
PRETRAINED = ROOT / "pretrained"
MAX_BYTES = 12 * 2**20  # of an upload
AT_ONCE = 2  # edits at the same time, of all sessions; one per session
SECONDS_KEPT = 1800  # of a session's photo in memory
NO_CHANGE = "(as it is)"
# The browser may ask this server only.
POLICY = (
    "default-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:"
)
STYLE = """
.cards {display: flex; flex-wrap: wrap; gap: 12px}
.cards figure {width: 192px; margin: 0; font-size: 13px; overflow-wrap: anywhere}
.cards img, .cards .none {width: 192px; height: 192px; border-radius: 6px; display: block}
.cards .none {background: #8882}
.cards .off {opacity: .5}
"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", type=Path, help="runs or releases; default: all in pretrained/")
    parser.add_argument("--judge", type=Path, help="judge of expressions; default: pretrained/judge, if it is there")
    parser.add_argument("--identity", type=Path, help="judge of identity; default: pretrained/identity, if it is there")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=7860)
    args = parser.parse_args(argv)
    with exit_on_user_error(), tempfile.TemporaryDirectory() as folder:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": folder}
        app = application(open_methods(args, Path(folder)))
        import uvicorn

        print(f"http://{args.host}:{args.port}")
        uvicorn.run(app, host=args.host, port=args.port, log_level="warning")


def open_methods(args: argparse.Namespace, folder: Path) -> SideBySide:
    """The runs and judges of the command line. Codes of faces are kept in `folder`.

    Raises:
        UserError: there is no run.
    """
    runs = args.runs or [p for p in sorted(PRETRAINED.glob(f"*{SUFFIX}")) if "role:" not in config_of(p)]
    if not runs:
        raise UserError(f"{PRETRAINED}: has no release; give runs with --runs, or write one with scripts/release.py")
    editors = {}
    for run in runs:
        name = (
            run.stem if unpacked(run) != run or run.parent.name == PRETRAINED.name else f"{run.parent.name} {run.name}"
        )
        editors[name] = open_editor(run)
        editors[name].cache_dir = folder
    judges = {name: getattr(args, name) or PRETRAINED / name for name in ("judge", "identity")}
    there = {k: v for k, v in judges.items() if getattr(args, k) or v.with_suffix(SUFFIX).is_file()}
    return SideBySide(editors, there.get("judge"), there.get("identity"))


def config_of(release: Path) -> str:
    """The configuration that a release was trained with; that of a judge has a role."""
    return read_about(release)["texts"]["config.yaml"]


def application(methods: SideBySide) -> Any:
    """The page as an ASGI application.

    Raises:
        UserError: the extra `web` is not installed.
    """
    try:
        import fastapi
        import gradio
    except ImportError:
        raise UserError("the page needs more packages; pip install -e '.[web]'") from None
    app = fastapi.FastAPI()

    @app.middleware("http")
    async def policy(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no fonts from elsewhere
    return gradio.mount_gradio_app(
        app, page(methods), "/", max_file_size=MAX_BYTES, theme=theme, css=STYLE, footer_links=[], show_error=True
    )


def page(methods: SideBySide) -> Any:
    """The page: photo and request at the left, one card per method at the right."""
    import gradio as gr

    classes, attributes = methods.names()
    with gr.Blocks(title="Face edits side by side", analytics_enabled=False, delete_cache=(60, 120)) as blocks:
        photo = gr.State(None, time_to_live=SECONDS_KEPT)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                upload = gr.Image(
                    sources=["upload", "webcam"], type="filepath", image_mode=None, label="Photo", height=220
                )
                eyes = gr.Textbox(label="Eyes x1,y1,x2,y2 in px, or whole (empty: find the face)", max_lines=1)
                draw = gr.Button("Draw a face instead")
                note = gr.Markdown()
                expression = gr.Radio([NO_CHANGE, *classes], value=NO_CHANGE, label="Expression")
                wanted = [f"{name}={side}" for name in attributes for side in (1, 0)]
                change = gr.Dropdown(wanted, multiselect=True, label="Attributes (1 = with, 0 = without)")
                strength = gr.Slider(0, 2, 1, step=0.1, label="Strength (1 = the full edit)")
                detail = gr.Radio(list(DETAILS), value=DETAILS[0], label="Detail (decode = output of the model)")
                animate = gr.Button("Animation")
            with gr.Column(scale=3):
                cards = gr.HTML(cards_html(methods, None, [], []))
                gr.HTML(html.escape(drawn_note(methods)))
                film = gr.HTML()
        request = [photo, expression, change, strength, detail]
        taken = {"outputs": [upload, photo, note], "api_visibility": "private"}
        upload.change(take, [upload, eyes], **taken)
        draw.click(lambda: (None, drawn_photo(), "a drawn face"), **taken)

        def run(*values: Any) -> Iterator[str]:  # a generator function, as gradio expects
            yield from edit(methods, *values)

        changed = [photo.change, expression.change, change.change, strength.release, detail.change]
        gr.on(
            changed,
            run,
            request,
            cards,
            trigger_mode="always_last",  # one edit at a time per session, the last wish is kept
            concurrency_limit=AT_ONCE,
            api_visibility="private",
        )
        animate.click(
            lambda *values: film_html(methods, *values), request, film, concurrency_limit=AT_ONCE,
            api_visibility="private",
        )  # fmt: skip
    return blocks


def take(path: str | None, eyes: str) -> tuple:
    """Read an upload and delete it: (emptied widget, photo, note). Nothing happens when the widget was emptied."""
    import gradio as gr

    if path is None:
        return gr.skip(), gr.skip(), gr.skip()
    try:
        found = read_upload(Path(path))
        found.eyes = eyes.strip() or None
        return None, found, f"photo of {found.picture.width} x {found.picture.height} px, read and deleted"
    except UserError as error:
        return None, None, f"**{html.escape(str(error))}**"
    finally:
        Path(path).unlink(missing_ok=True)


def drawn_photo() -> Photo:
    """A drawn face of a random person."""
    factors = synthetic.factors(int.from_bytes(os.urandom(3)), [0])
    return Photo(Image.fromarray(synthetic.render(factors, 192)[0].transpose(1, 2, 0)), "whole")


def drawn_note(methods: SideBySide) -> str:
    """Says which networks know drawn faces only; empty if none does."""
    judge = next((judge.net for judge in methods.judges.values() if not isinstance(judge, str)), None)
    networks = methods.editors | {"the judge": judge, "the judge of identity": methods.embedding}
    drawn = [name for name, net in networks.items() if net is not None and net.meta["dataset"] == "synthetic"]
    return f"Trained on drawn faces, so poor with photos: {', '.join(drawn)}." if drawn else ""


def words_of(expression: str, change: Sequence[str] | None) -> list[str]:
    """The request."""
    return [word for word in (expression, *(change or [])) if word != NO_CHANGE]


def edit(
    methods: SideBySide, photo: Photo | None, expression: str, change: list[str], strength: float, detail: str
) -> Iterator[str]:
    """The cards, again after each method."""
    words, results = words_of(expression, change), []
    yield cards_html(methods, photo, words, results)
    if photo is None or not words:
        return
    for result in methods.edits(photo, words, strength, detail):
        results.append(result)
        yield cards_html(methods, photo, words, results)


def cards_html(methods: SideBySide, photo: Photo | None, words: Sequence[str], results: Sequence[Result]) -> str:
    """One card per method; the card of a method that cannot do the edit is grey and gives the reason."""
    refused, done = methods.refusals(words) if words else {}, {result.method: result for result in results}
    aligned = next((face.photos[0] for face in (photo.faces.values() if photo else ())), None)
    source = None if photo is None else cut_face(photo.picture, aligned) if aligned else photo.picture
    cards = [figure(source, ["photo"])] if source else []
    for name in methods.editors:
        result = done.get(name, Result(name, reason=refused.get(name, "")))
        if result.image is None:
            cards.append(figure(None, [name, result.reason], off=bool(result.reason)))
            continue
        same = "no judge" if result.similarity is None else f"{result.similarity:.2f}"
        lines = [name, f"judge: {result.verdict}", f"identity similarity: {same}", f"{result.seconds:.2f} s"]
        cards.append(figure(result.image, lines))
    link = ""
    if source and len(results) == len(methods.editors) and any(result.image for result in results):
        link = f'<p><a download="strip.png" href="{data_url(strip(source, results))}">Download the strip</a></p>'
    return f'<div class="cards">{"".join(cards)}</div>{link}'


def figure(image: Image.Image | None, lines: Sequence[str], off: bool = False) -> str:
    """One card."""
    picture = f'<img src="{data_url(image)}" alt="{html.escape(lines[0])}">' if image else '<div class="none"></div>'
    text = "<br>".join(html.escape(line) for line in lines[1:] if line)
    return f'<figure class="{"off" if off else ""}">{picture}<b>{html.escape(lines[0])}</b><br>{text}</figure>'


def film_html(methods: SideBySide, photo: Photo | None, expression: str, change: list[str], *how: Any) -> str:
    """The animation and its link, or a sentence."""
    words = words_of(expression, change)
    if photo is None or not words:
        return "Give a photo and an expression or an attribute first."
    try:
        frames = methods.animation(photo, words, *how)
    except UserError as error:
        return html.escape(str(error))
    url = data_url(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=120, loop=0)
    return f'<img src="{url}" alt="animation"><p><a download="edit.webp" href="{url}">Download the animation</a></p>'


def data_url(image: Image.Image, kind: str = "PNG", **options: Any) -> str:
    """A picture as a URL that holds its bytes, so that no file is written."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


if __name__ == "__main__":
    main()

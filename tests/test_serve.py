"""The web page: side-by-side edits, limits of uploads, and the whole page in a browser where one is installed."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

import pytest
import torch
from editor_contract import camera_photo
from PIL import Image
from untrained import untrained

from editing import side_by_side
from editing.side_by_side import Photo, Result, SideBySide, beside, read_upload, strip
from engine import UserError
from families import open_editor
from scripts import serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # networks of three systems, a server and a browser
EYES = "65.4,65.1,90.6,65.1"  # of the face that `camera_photo` draws


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("serve")
    return {name: untrained(name, folder / name) for name in ("vae", "stargan", "a2f_cgan")}


@pytest.fixture
def methods(runs) -> SideBySide:
    return SideBySide({name: open_editor(run, device="cpu") for name, run in runs.items()})


@pytest.fixture
def photo(tmp_path: Path) -> Photo:
    found = read_upload(Path(camera_photo(tmp_path / "me.png")))
    found.eyes = EYES
    return found


def test_each_method_gives_an_image_or_its_sentence(methods: SideBySide, photo: Photo) -> None:
    results = {r.method: r for r in methods.edits(photo, ["happy"], 1.0, "blend")}
    assert list(results) == ["vae", "stargan", "a2f_cgan"]
    for name in ("vae", "stargan"):
        assert (
            results[name].image.size == (192, 192) and results[name].seconds > 0 and results[name].verdict == "no judge"
        )
    assert results["a2f_cgan"].image is None and "cannot encode a photo" in results["a2f_cgan"].reason
    assert set(photo.faces) == {"vae", "stargan"} and photo.faces["vae"].code is not None


def test_a_face_is_found_and_encoded_once(methods: SideBySide, photo: Photo, monkeypatch) -> None:
    list(methods.edits(photo, ["happy"], 1.0, "blend"))
    monkeypatch.setattr(side_by_side, "load_face", lambda *a: pytest.fail("the face was looked for again"))
    monkeypatch.setattr(type(methods.editors["vae"]), "encode", lambda *a: pytest.fail("encoded again"))
    assert sum(r.image is not None for r in methods.edits(photo, ["sad"], 0.5, "decode")) == 2


def test_what_a_method_cannot_do_is_grey_with_its_sentence(methods: SideBySide, photo: Photo) -> None:
    assert set(methods.refusals(["Smiling=1"])) == {"a2f_cgan"}  # StarGAN's happy is a smile
    assert set(methods.refusals(["Male=1"])) == {"stargan", "a2f_cgan"}  # StarGAN was trained with expressions
    page = serve.cards_html(methods, photo, ["Male=1"], [])
    assert page.count('class="off"') == 2 and "Male" in page
    expressions, attributes = methods.names()
    assert "happy" in expressions and "Smiling" in attributes and "Black_Hair" in attributes


def test_strength_and_detail_act(methods: SideBySide, photo: Photo) -> None:
    def images(strength: float, detail: str) -> list[bytes]:
        return [r.image.tobytes() for r in methods.edits(photo, ["happy"], strength, detail) if r.image]

    unchanged = images(0, "blend")
    assert unchanged[0] == serve.cut_face(photo.picture, photo.faces["vae"].photos[0]).tobytes()
    assert images(0, "decode") != unchanged and images(2, "decode") != images(1, "decode")


def test_the_cards_and_downloads(methods: SideBySide, photo: Photo) -> None:
    pages = list(serve.edit(methods, photo, "happy", [], 1.0, "blend"))
    assert len(pages) == 1 + len(methods.editors) and "<img" in pages[-1]
    assert "strip.png" in pages[-1] and "strip.png" not in pages[-2], "the strip is there when all methods are"
    assert "edit.webp" in serve.film_html(methods, photo, "happy", [], 1.0, "blend")
    assert "first" in serve.film_html(methods, None, "happy", [], 1.0, "blend")
    red = Image.new("RGB", (192, 192), "red")
    sheet = strip(red, [Result("a", red, "happy .97"), Result("b", reason="no")])
    assert sheet.width >= 2 * 192 and beside([red, red]).size == (384, 192)


def test_uploads_are_limited_and_deleted(tmp_path: Path, monkeypatch) -> None:
    path = Path(camera_photo(tmp_path / "me.png"))
    monkeypatch.setattr(side_by_side, "MAX_PIXELS", 100)
    monkeypatch.setattr(side_by_side, "open_photo", lambda p: pytest.fail("decoded"))
    with pytest.raises(UserError, match="million pixels"):
        read_upload(path)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match="not a readable picture"):
        read_upload(tmp_path / "text.png")
    pytest.importorskip("gradio", reason="needs the extra [web]")
    assert "million" in serve.take(str(path), "")[2] and not path.exists()


def test_a_large_photo_is_reduced(tmp_path: Path) -> None:
    Image.new("RGB", (3000, 1500)).save(tmp_path / "big.png")
    assert read_upload(tmp_path / "big.png").picture.size == (1024, 512)


def test_a_drawn_face_needs_no_photo(methods: SideBySide) -> None:
    assert any(r.image for r in methods.edits(serve.drawn_photo(), ["happy"], 1.0, "blend"))


def test_the_page_names_what_was_trained_on_drawn_faces(methods: SideBySide) -> None:
    assert serve.drawn_note(methods).endswith(": vae, stargan, a2f_cgan.")
    methods.editors["vae"].meta["dataset"] = "celeba"
    assert serve.drawn_note(methods).endswith(": stargan, a2f_cgan.")
    assert serve.drawn_note(SideBySide({"vae": methods.editors["vae"]})) == ""


# In a browser.


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def server(runs, tmp_path_factory):
    pytest.importorskip("gradio", reason="needs the extra [web]")
    folder, port = tmp_path_factory.mktemp("tmp"), free_port()
    command = [sys.executable, "scripts/serve.py", "--port", str(port), "--runs", *map(str, runs.values())]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "TMPDIR": str(folder)}
    process = subprocess.Popen(command, cwd=Path(__file__).parent.parent, env=environment)
    try:
        for _ in range(600):
            if process.poll() is not None:
                pytest.fail("the server ended")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5)
                break
            except OSError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}", folder
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def browser_page():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def test_upload_slider_and_download_in_a_browser(server, browser_page, tmp_path: Path) -> None:
    url, folder = server
    page, hosts, errors = browser_page, set(), []
    page.on("request", lambda request: hosts.add(urlparse(request.url).netloc))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    page.get_by_label("Eyes").fill(EYES)
    page.get_by_label("Eyes").blur()
    page.locator("input[type=file]").first.set_input_files(camera_photo(tmp_path / "me.png"))
    page.get_by_text("read and deleted").wait_for()
    page.get_by_label("happy").check()
    page.get_by_text("Download the strip").wait_for()
    assert page.locator(".cards figure.off").count() == 1 and page.locator(".cards img").count() == 3
    first = page.locator(".cards img").nth(1).get_attribute("src")
    slider = page.get_by_label("number input for Strength")
    slider.fill("2")
    slider.press("Enter")
    slider.blur()
    page.wait_for_function("first => document.querySelectorAll('.cards img')[1]?.src !== first", arg=first)
    with page.expect_download() as download:
        page.get_by_text("Download the strip").click()
    download.value.save_as(tmp_path / "strip.png")
    with Image.open(tmp_path / "strip.png") as picture:
        assert picture.width > 3 * 192
    page.get_by_role("button", name="Animation").click()
    with page.expect_download() as download:
        page.get_by_text("Download the animation").click()
    download.value.save_as(tmp_path / "edit.webp")
    with Image.open(tmp_path / "edit.webp") as film:
        assert film.n_frames > 2
    assert hosts <= {urlparse(url).netloc, ""}, f"requests to {hosts}"
    assert errors == []
    kept = [p for p in folder.rglob("*") if p.is_file() and p.suffix in (".png", ".jpg", ".webp")]
    assert kept == [], f"uploads that were kept: {kept}"
    assert torch.is_grad_enabled()

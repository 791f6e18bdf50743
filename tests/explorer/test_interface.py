"""The page is served, and used as people use it: by its programming interface, and in a browser where there is one."""

import re
import shutil

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed: pip install vididi-hf[explorer]")

from explorer.interface import build_page, launch_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def address(explorer):
    page = build_page(explorer)
    yield launch_page(page, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    page.close()


def test_uploads_do_not_stay(explorer):
    every, age = build_page(explorer).delete_cache
    assert every + age <= 3600


def test_programs_can_ask(address, broken_videos):
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False)
    message, *pictures, neighbors = client.predict(None, "spin", "derivative", 1, 2, api_name="/explore")
    assert re.search(r"\*\*spin\*\*: 24 frames of 64 × 64 pixels, 12 per second\. \d+% of the pixels", str(message))
    assert [Image.open(picture).format for picture in pictures] == ["PNG"] * 3
    assert str(neighbors).count("<figure") == 1 + 2 * 5
    refused = client.predict(handle_file(broken_videos["text"]), "spin", "frames", 1, 1, api_name="/explore")
    assert "text.mp4 cannot be read: it is not a video" in str(refused[0])


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


PICTURES_LOADED = (
    "() => [...document.querySelectorAll('#derivatives img, #taylor img, #saliency img')].filter("
    "image => image.complete && image.naturalWidth > 300).length == 3"
)
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.slow
def test_in_a_browser(address, browser, write_video, broken_videos, tmp_path):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    strangers, errors = [], []
    page.on("request", lambda request: strangers.append(request.url) if is_elsewhere(request.url, address) else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    message, tiles = page.locator("#message"), page.locator("#neighbors figure")

    def wait_for(text):
        message.get_by_text(text).first.wait_for()

    wait_for("24 frames of 64 × 64 pixels")
    page.wait_for_function(PICTURES_LOADED)
    assert tiles.count() == 1 + 2 * 5
    assert page.evaluate(OVERFLOW) == 0

    page.get_by_label("spin", exact=True).click()
    message.get_by_text("spin", exact=True).wait_for()
    before = page.locator("#saliency img").get_attribute("src")
    page.get_by_label("derivative", exact=True).click()
    page.wait_for_function(
        "before => document.querySelector('#saliency img')?.getAttribute('src') != before", arg=before
    )

    chooser = page.locator("input[type=file]")
    chooser.set_input_files(broken_videos["text"])
    wait_for("text.mp4 cannot be read: it is not a video that FFmpeg can read")
    page.locator("#derivatives").wait_for(state="hidden")
    chooser.set_input_files(write_video(tmp_path / "mine.mp4", 30))
    wait_for("30 frames of 48 × 40 pixels")
    assert tiles.count() == 1 + 2 * 5

    assert strangers == []
    assert errors == []
    page.close()


def is_elsewhere(url, address):
    return not url.startswith((address, "data:", "blob:"))

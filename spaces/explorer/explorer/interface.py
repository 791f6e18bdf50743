"""The explorer as a Gradio page."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable
from html import escape
from typing import Any

from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from explorer.exploration import NUM_CLIPS, SHOWN, Exploration, Explorer, Sample
from explorer.uploads import LIMITS, MAX_MEGABYTES, RefusedVideoError
from vididi_hf.data.motion import FRAME_RATE, MOTIONS

try:
    import gradio as gr
except ImportError as error:
    raise ImportError("the explorer needs Gradio: pip install 'vididi-hf[explorer]'") from error

_TITLE = "ViDiDi explorer"
_REQUESTS = 8  # that are answered at the same time, so that a slow video delays nobody else
_DELETE = (600, 1800)  # every ten minutes, delete files older than half an hour
_INTRODUCTION = (
    f"# {_TITLE}\nA video, its temporal derivatives, and how two encoders see it: one trained on frames only, "
    "one trained with *Unfolding Videos Dynamics via Taylor Expansion*."
)
_ABOUT = {
    "derivatives": "### Temporal derivatives\nThe clip and its differences over time. Red pixels get brighter, blue "
    "ones darker. White means no change. ± is the end of the scale, in gray levels out of 255.",
    "taylor": "### Taylor expansion\nThe frames after t, predicted from the frames up to t with derivatives up to each "
    "order. Below each frame is its error in gray levels. The best order is bold.",
    "saliency": "### Where the encoder looks\nHow much each pixel of each frame contributes to the embedding "
    "(integrated gradients). In each row, gray is nothing and yellow is the maximum.",
    "neighbors": "### Nearest neighbors\nThe most similar videos of a gallery, with their cosine similarity. "
    "For a sample, green means the same motion and red another one.",
}
_CSS = """
.vd-query, .vd-row { display: flex; align-items: center; gap: 12px; margin: 8px 0; }
.vd-name { flex: 0 0 84px; text-align: right; font-weight: 600; }
.vd-tiles { flex: 1 1 0; display: flex; flex-wrap: wrap; gap: 12px; }
.vd-tile { margin: 0; width: 112px; }
.vd-tile img { width: 112px; height: 112px; object-fit: cover; border: 4px solid #8a8f98; border-radius: 6px; }
.vd-tile figcaption { font-size: 13px; line-height: 1.5; text-align: center; white-space: nowrap; }
.vd-same img { border-color: #2a9d5c; }
.vd-other img { border-color: #d1495b; }
.vd-asked img { border-color: #30343b; }
.gradio-container { max-width: 1280px !important; margin: 0 auto !important; }
#message.refused { border-left: 4px solid #d1495b; padding-left: 12px; }
"""
_THEME = {
    "font": ["system-ui", "sans-serif"],
    "font_mono": ["ui-monospace", "monospace"],
}  # no web fonts


def build_page(explorer: Explorer) -> gr.Blocks:
    """Builds the page. It has no state of its own, so it serves any number of users."""
    motions = list(MOTIONS)

    with gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=_DELETE) as page:
        gr.Markdown(_INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                motion = gr.Radio(motions, value=motions[0], label="Sample", info="Generated; named by its motion.")
                another = gr.Button("Another of this motion", size="sm")
                upload = gr.Video(sources=["upload"], label="Or your video", height=200)
                gr.Markdown(f"Accepted: {LIMITS}.")
                shown = gr.Radio(list(SHOWN), value=SHOWN[0], label="Encoders see")
                clip = gr.Slider(
                    1, NUM_CLIPS, value=NUM_CLIPS // 2 + 1, step=1, label="Clip", info="Which part of the video."
                )
                stride = gr.Slider(1, 4, value=1, step=1, label="Frame stride", info="Frames between those of a clip.")
                number = gr.State(0)
            with gr.Column(scale=4, min_width=480):
                message = gr.Markdown(elem_id="message")
                with gr.Column() as answer:
                    pictures = []
                    for part in ("derivatives", "taylor", "saliency"):
                        gr.Markdown(_ABOUT[part])
                        pictures.append(
                            gr.Image(
                                show_label=False, format="png", elem_id=part, interactive=False, buttons=["fullscreen"]
                            )
                        )
                    gr.Markdown(_ABOUT["neighbors"])
                    neighbors = gr.HTML(elem_id="neighbors")

        def explore(path: str | None, motion: str, number: int, shown: str, clip: int, stride: int) -> list[Any]:
            start = time.perf_counter()
            source = path if path is not None else Sample(motion, number)
            try:
                found = explorer.explore(source, shown=shown, clip=int(clip) - 1, frame_stride=int(stride))
            except RefusedVideoError as error:
                refusal = gr.Markdown(f"**The video was rejected.** {error}", elem_classes=["refused"])
                return [refusal, gr.Column(visible=False), None, None, None, ""]
            images = [draw(figure) for figure in (found.derivatives, found.taylor, found.saliency)]
            tiles = neighbors_page(found, explorer.video)
            text = f"{_summary(found)} Answered in {time.perf_counter() - start:.1f} s."
            return [gr.Markdown(text, elem_classes=[]), gr.Column(visible=True), *images, tiles]

        asked = [upload, motion, number, shown, clip, stride]
        answered = [message, answer, *pictures, neighbors]
        queue: dict[str, Any] = {"concurrency_limit": _REQUESTS, "concurrency_id": "explore"}
        changes = [page.load, upload.upload, upload.clear, shown.input, clip.release, stride.release]
        gr.on(changes, explore, asked, answered, **queue)
        # A sample takes the place of an upload.
        hidden: dict[str, Any] = {"api_visibility": "private"}
        first = motion.input(lambda: (None, 0), None, [upload, number], **hidden)
        next_one = another.click(lambda number: (None, number + 1), number, [upload, number], **hidden)
        for chosen in (first, next_one):
            chosen.then(explore, asked, answered, **hidden, **queue)
    return page


def launch_page(page: gr.Blocks, **options: Any) -> str:
    """Serves a page, with options of `gr.Blocks.launch`. Returns its local URL."""
    settings = {"theme": gr.themes.Default(**_THEME), "css": _CSS, "max_file_size": f"{MAX_MEGABYTES}mb"}
    _, address, _ = page.launch(**{**settings, "footer_links": [], **options})
    return address


def draw(figure: Figure, dpi: int = 110) -> Image.Image:
    """Draws a figure without the white around it."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.06)
    return Image.open(file)


def _summary(found: Exploration) -> str:
    subject = f"**{found.label}**" if found.label is not None else "**Your video**"
    shares = ", ".join(f"{share:.0%} of {name}'s saliency is on them" for name, share in found.on_motion.items())
    return f"{subject}: {found.facts}. {found.changing:.0%} of the pixels change. {shares}."


def moving_picture(frames: Tensor, frames_per_second: float = FRAME_RATE) -> str:
    """Encodes uint8 (frames, 3, height, width) as a looping WebP. Returns a `data:` URL."""
    first, *rest = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames]
    file = io.BytesIO()
    duration = round(1000 / frames_per_second)
    first.save(file, "WEBP", save_all=True, append_images=rest, duration=duration, loop=0, quality=70, method=0)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def neighbors_page(exploration: Exploration, video: Callable[[int], Tensor]) -> str:
    """Returns the query and, per encoder, a row of neighbors as HTML.

    Neighbors of a sample have a green border if their motion is the same, and a red one if not.
    """
    asked = _tile(moving_picture(exploration.clip), exploration.label or "your video", "asked")
    rows = [f'<div class="vd-query"><div class="vd-name">video</div><div class="vd-tiles">{asked}</div></div>']
    for name, found in exploration.neighbors.items():
        tiles = []
        for neighbor in found:
            kind, mark = "plain", ""
            if exploration.label is not None:
                kind, mark = ("same", "✓ ") if neighbor.label == exploration.label else ("other", "✗ ")
            caption = f"{mark}{neighbor.label} · {neighbor.cosine:.3f}"
            tiles.append(_tile(moving_picture(video(neighbor.index)), caption, kind))
        rows.append(
            f'<div class="vd-row"><div class="vd-name">{escape(name)}</div>'
            f'<div class="vd-tiles">{"".join(tiles)}</div></div>'
        )
    return "".join(rows)


def _tile(address: str, caption: str, kind: str) -> str:
    text = escape(caption)
    return (
        f'<figure class="vd-tile vd-{kind}"><img src="{address}" alt="{text}"><figcaption>{text}</figcaption></figure>'
    )

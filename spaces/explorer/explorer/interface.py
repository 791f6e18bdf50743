"""The explorer as a Gradio page."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from explorer.exploration import NUM_CLIPS, SHOWN, Exploration, Explorer, Sample
from explorer.tiles import STYLE, neighbors_page
from explorer.uploads import LIMITS, MAX_MEGABYTES, RefusedVideoError
from vididi_hf.data.motion import MOTIONS

try:
    import gradio as gr
except ImportError as error:
    raise ImportError("the explorer needs Gradio: pip install 'vididi-hf[explorer]'") from error

_TITLE = "ViDiDi explorer"
_DELETE = (600, 1800)  # every ten minutes, files older than half an hour: strangers' videos do not stay
_INTRODUCTION = (
    f"# {_TITLE}\nA video, its temporal derivatives, and what two encoders make of them: one trained on frames alone, "
    "one with *Unfolding Videos Dynamics via Taylor Expansion*."
)
_ABOUT = {
    "derivatives": "### Temporal derivatives\nThe clip and its differences in time. Red is getting brighter, blue "
    "darker, white no change; ± is the end of the scale, in gray levels out of 255.",
    "taylor": "### Taylor expansion\nThe frames after t, predicted from the frames up to t by derivatives up to each "
    "order. Below each, its error in gray levels; the best order is bold.",
    "saliency": "### Where the encoder looks\nWhich pixels make the embedding what it is, and when (integrated "
    "gradients): in each row, gray is nothing and yellow is most.",
    "neighbors": "### Nearest neighbors\nWhat each encoder finds most similar in a gallery, with the cosine. "
    "For a sample, green is the same motion and red another one.",
}
_CSS = (
    STYLE
    + """
.gradio-container { max-width: 1280px !important; margin: 0 auto !important; }
#message.refused { border-left: 4px solid #d1495b; padding-left: 12px; }
"""
)
_THEME = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none from elsewhere


def build_page(explorer: Explorer) -> gr.Blocks:
    """Makes the page of an explorer; `launch_page` serves it.

    Args:
        explorer: Answers what is asked on the page.

    Returns:
        The page. Its events are the only state: a page serves any number of people.
    """
    motions = list(MOTIONS)
    longest = 4

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
                stride = gr.Slider(
                    1, longest, value=1, step=1, label="Frames apart", info="From one frame of a clip to the next."
                )
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
                refusal = gr.Markdown(f"**This video was not explored.** {error}", elem_classes=["refused"])
                return [refusal, gr.Column(visible=False), None, None, None, ""]
            images = [draw(figure) for figure in (found.derivatives, found.taylor, found.saliency)]
            tiles = neighbors_page(found, explorer.video)
            text = f"{_summary(found)} Answered in {time.perf_counter() - start:.1f} s."
            return [gr.Markdown(text, elem_classes=[]), gr.Column(visible=True), *images, tiles]

        asked = [upload, motion, number, shown, clip, stride]
        answered = [message, answer, *pictures, neighbors]
        changes = [page.load, upload.upload, upload.clear, shown.input, clip.release, stride.release]
        gr.on(changes, explore, asked, answered)
        # A sample takes the place of an upload.
        hidden: dict[str, Any] = {"api_visibility": "private"}
        first = motion.input(lambda: (None, 0), None, [upload, number], **hidden)
        next_one = another.click(lambda number: (None, number + 1), number, [upload, number], **hidden)
        for chosen in (first, next_one):
            chosen.then(explore, asked, answered, **hidden)
    return page


def launch_page(page: gr.Blocks, **options: Any) -> str:
    """Serves a page.

    Args:
        page: Made by `build_page`.
        **options: Of `gr.Blocks.launch`, such as `server_port`.

    Returns:
        Its address on this machine, once it is served in the background (`prevent_thread_lock=True`) or has ended.
    """
    settings = {"theme": gr.themes.Default(**_THEME), "css": _CSS, "max_file_size": f"{MAX_MEGABYTES}mb"}
    _, address, _ = page.launch(**{**settings, "footer_links": [], **options})
    return address


def draw(figure: Figure, dpi: int = 110, margin: int = 8) -> NDArray[np.uint8]:
    """Draws a figure without the white around it.

    Args:
        figure: Shows anything on white.
        dpi: Pixels per inch.
        margin: Pixels of white that stay on each side, where there are as many.

    Returns:
        uint8 (height, width, 3).
    """
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba(), dtype=np.uint8)[..., :3]
    inked = np.any(image < 255, axis=-1)
    rows, columns = (np.flatnonzero(np.any(inked, axis=axis)) for axis in (1, 0))
    top, left = (max(0, places[0] - margin) for places in (rows, columns))
    return image[top : rows[-1] + 1 + margin, left : columns[-1] + 1 + margin].copy()


def _summary(found: Exploration) -> str:
    subject = f"**{found.label}**" if found.label is not None else "**Your video**"
    shares = ", ".join(f"{share:.0%} of what {name} looks at" for name, share in found.on_motion.items())
    return f"{subject}: {found.facts}. {found.changing:.0%} of the pixels shown change; on them lies {shares}."

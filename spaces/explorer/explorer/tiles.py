"""Videos as small moving pictures in a page: neighbors side by side, for each encoder."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from html import escape

from PIL import Image
from torch import Tensor

from explorer.exploration import Exploration
from vididi_hf.data.motion import FRAME_RATE

STYLE = """
.vd-query, .vd-row { display: flex; align-items: center; gap: 12px; margin: 8px 0; }
.vd-name { flex: 0 0 84px; text-align: right; font-weight: 600; }
.vd-tiles { flex: 1 1 0; display: flex; flex-wrap: wrap; gap: 12px; }
.vd-tile { margin: 0; width: 112px; }
.vd-tile img { width: 112px; height: 112px; object-fit: cover; border: 4px solid #8a8f98; border-radius: 6px; }
.vd-tile figcaption { font-size: 13px; line-height: 1.5; text-align: center; white-space: nowrap; }
.vd-same img { border-color: #2a9d5c; }
.vd-other img { border-color: #d1495b; }
.vd-asked img { border-color: #30343b; }
"""


def moving_picture(frames: Tensor, frames_per_second: float = FRAME_RATE) -> str:
    """Encodes frames as an endless animated WebP.

    Args:
        frames: uint8 (frames, 3, height, width).
        frames_per_second: How fast it plays.

    Returns:
        A `data:` address for the `src` of an image.
    """
    first, *rest = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames]
    file = io.BytesIO()
    duration = round(1000 / frames_per_second)
    first.save(file, "WEBP", save_all=True, append_images=rest, duration=duration, loop=0, quality=70, method=0)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def neighbors_page(exploration: Exploration, video: Callable[[int], Tensor]) -> str:
    """Writes the neighbors of a video as HTML: the video, and below, one row per encoder.

    Args:
        exploration: What `Explorer.explore` returned.
        video: From a neighbor's index to its frames, uint8 (frames, 3, height, width).

    Returns:
        HTML for which `STYLE` is meant. With a known label, neighbors of the same one have a green border and a tick,
        others a red border and a cross.
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

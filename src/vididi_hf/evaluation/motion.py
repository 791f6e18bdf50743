"""The motion benchmark: does an encoder see the motion of generated videos, or their background?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm

from vididi_hf.data.motion import MOTIONS, NUM_BACKGROUNDS, describe_motion, render_motion_at
from vididi_hf.data.noise import describe_noise, render_noise_at
from vididi_hf.evaluation.knn import knn_probabilities, nearest_neighbors
from vididi_hf.evaluation.linear import choose_C, fit_logistic_regression
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

SETS: dict[str, tuple[Callable[..., Any], Callable[..., Tensor], float]] = {
    "half speed": (describe_motion, render_motion_at, 0.5),
    "speed 1": (describe_motion, render_motion_at, 1.0),
    "double speed": (describe_motion, render_motion_at, 2.0),
    "camouflage": (describe_noise, render_noise_at, 1.0),
}
"""Each set of videos: functions that describe and render one, and its speed."""
CHANCE = {"motion": 1 / len(MOTIONS), "background": 1 / NUM_BACKGROUNDS}
_MAIN = "speed 1"


def motion_benchmark(
    model: ViDiDiModel,
    processor: ViDiDiVideoProcessor,
    *,
    num_gallery: int = 240,
    num_queries: int = 160,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Evaluates an encoder, its untrained copy and temporal moments of its frame features on generated clips.

    Nothing is trained but the linear probes. Each video is one clip of the encoder's length, with a twelfth of a second
    between frames at speed 1.

    Args:
        model: The encoder.
        processor: Its processor, for the number, size and normalization of the frames.
        num_gallery: Videos to search and to fit probes on, of the split `train`.
        num_queries: Test videos, with other sprites.
        batch_size: Clips per forward pass.
        seed: Seed of the videos and of the untrained copy.
        progress: Whether to show a progress bar.

    Returns:
        Columns `encoder` (trained, untrained, moments), `input` (frames, derivative), `videos` (half speed, speed 1,
        double speed, camouflage), `label` (motion, background), and the metrics `R@1`, `20-NN` and `linear` in [0, 1].

    Raises:
        ValueError: If the features are not finite.

    Source: camouflage after SpookyBench (arXiv 2505.24867); moments after SemanticMoments (arXiv 2602.09146).
    """
    torch.manual_seed(seed)
    untrained: Any = type(model)(copy.deepcopy(model.config))
    untrained.to(model.device, model.dtype)
    encoders = {"trained": model.eval(), "untrained": untrained.eval()}
    rows = []
    total = len(SETS) * (num_gallery + num_queries)
    with tqdm(total=total, desc="motion benchmark", unit="clip", disable=not progress) as bar:
        for name, (describe, render, speed) in SETS.items():
            time = speed * torch.arange(processor.num_frames + 1, dtype=torch.float32)
            features: dict[tuple[str, str], list[Tensor]] = {}
            labels: dict[str, list[Any]] = {"motion": [], "background": []}
            videos = [("train", index) for index in range(num_gallery)] + [("test", i) for i in range(num_queries)]
            for first in range(0, len(videos), batch_size):
                batch = videos[first : first + batch_size]
                clips = torch.cat(
                    [
                        processor.sample_clips(render(time, *video, seed), do_sample_frames=False, extra_frames=0)
                        for video in batch
                    ]
                )
                drawn = [describe(*video, seed) for video in batch]
                labels["motion"] += [one["label"] for one in drawn]
                labels["background"] += [one["background"] for one in drawn]
                with_moments = name in (_MAIN, "camouflage")
                for key, found in _encode(encoders, processor, clips, with_moments).items():
                    features.setdefault(key, []).append(found)
                bar.update(len(batch))
            for label, values in labels.items():
                if name == "camouflage" and label == "background":
                    continue
                numbers = torch.from_numpy(pd.factorize(pd.Series(values), sort=True)[0]).long()
                for (encoder, shown), parts in features.items():
                    metrics = _score(torch.cat(parts), numbers, num_gallery)
                    rows.append({"encoder": encoder, "input": shown, "videos": name, "label": label, **metrics})
    return pd.DataFrame(rows)


@torch.no_grad()
def _encode(
    encoders: dict[str, ViDiDiModel], processor: ViDiDiVideoProcessor, clips: Tensor, with_moments: bool
) -> dict[tuple[str, str], Tensor]:
    """Features (clips, dimensions) by encoder and input. `clips` have one frame more than the encoder sees."""
    found = {}
    for name, model in encoders.items():
        views = processor.views(clips.to(model.device), (0, 1))
        for order, (shown, view) in enumerate(zip(("frames", "derivative"), views)):
            found[name, shown] = model(view.to(model.dtype), derivative_order=order).pooler_output.float().cpu()
        if with_moments and name == "trained":
            frames = views[0].to(model.dtype).transpose(0, 1)  # (frames, clips, channels, height, width)
            still = [one.unsqueeze(1).expand(-1, len(frames), -1, -1, -1) for one in frames]
            vectors = torch.stack([model(one, derivative_order=0).pooler_output.float().cpu() for one in still], dim=1)
            found["moments", "frames"] = temporal_moments(vectors)
    return found


def temporal_moments(vectors: Tensor) -> Tensor:
    """Concatenates mean, variance and skewness over the frames of (clips, frames, dimensions), each of unit length.

    Source: SemanticMoments (arXiv 2602.09146).
    """
    mean = vectors.mean(1)
    centered = vectors - mean.unsqueeze(1)
    variance = centered.square().mean(1)
    skewness = centered.pow(3).mean(1) / (variance + 1e-12).pow(1.5)
    return torch.cat([F.normalize(part, dim=-1) for part in (mean, variance, skewness)], dim=-1)


def _score(features: Tensor, labels: Tensor, num_gallery: int) -> dict[str, float]:
    gallery, queries = features[:num_gallery], features[num_gallery:]
    known, wanted = labels[:num_gallery], labels[num_gallery:]
    nearest = nearest_neighbors(queries, gallery, min(20, num_gallery))
    votes = knn_probabilities(queries, gallery, nearest, known, int(labels.max()) + 1)
    probe = fit_logistic_regression(gallery, known, choose_C(gallery, known, (1e-2, 1e-1, 1.0)))
    return {
        "R@1": float((known[nearest[:, 0]] == wanted).double().mean()),
        "20-NN": float((votes.argmax(1) == wanted).double().mean()),
        "linear": float(probe.score(queries.double().numpy(), wanted.numpy())),
    }


def interpret(table: pd.DataFrame, num_queries: int) -> list[str]:
    """Writes three sentences about a table of `motion_benchmark`."""
    index = table.set_index(["encoder", "input", "videos", "label"])["R@1"].sort_index()

    def value(encoder: str, videos: str = _MAIN, label: str = "motion", shown: str = "frames") -> float:
        return float(index.loc[encoder, shown, videos, label])

    def margin(share: float) -> float:
        return 196 * math.sqrt(share * (1 - share) / num_queries)

    motion, scene = value("trained"), value("trained", label="background")
    seen = motion - CHANCE["motion"] > 1.96 * math.sqrt(CHANCE["motion"] * (1 - CHANCE["motion"]) / num_queries)
    verdict = "It sees motion" if seen else "It does not see motion"
    scene_part = "more than" if motion > scene else "less than"
    hidden, still = value("trained", "camouflage"), value("moments")
    return [
        f"{verdict}: the nearest video of a clip has the same motion for {motion:.1%} of the queries "
        f"(± {margin(motion):.1f}, chance {CHANCE['motion']:.1%}), which is {scene_part} the same background "
        f"({scene:.1%}, chance {CHANCE['background']:.1%}).",
        f"Its untrained copy reaches {value('untrained'):.1%}, and temporal moments of its features of single frames "
        f"{still:.1%}.",
        f"If single frames are noise and only motion carries the label, it reaches {hidden:.1%} on frames and "
        f"{value('trained', 'camouflage', shown='derivative'):.1%} on their derivative.",
    ]


def page(table: pd.DataFrame, sentences: Sequence[str], model: str) -> str:
    """Formats the report: sentences, a table with one row per encoder and input, and the figure."""
    columns = {
        **{f"motion, {name}": (name, "motion", "R@1") for name in SETS},
        "20-NN": (_MAIN, "motion", "20-NN"),
        "linear": (_MAIN, "motion", "linear"),
        "background": (_MAIN, "background", "R@1"),
        "background, linear": (_MAIN, "background", "linear"),
    }
    lines = [f"| encoder | input | {' | '.join(columns)} |", "| " + " | ".join(["---"] * (2 + len(columns))) + " |"]
    for (encoder, shown), part in table.groupby(["encoder", "input"], sort=False):
        cells = part.set_index(["videos", "label"])
        values = [cells[metric].get((videos, label)) for videos, label, metric in columns.values()]
        shown_values = ["" if value is None else f"{100 * value:.1f}" for value in values]
        lines.append(f"| {encoder} | {shown} | {' | '.join(shown_values)} |")
    chance = f"Chance: {CHANCE['motion']:.1%} for motion, {CHANCE['background']:.1%} for the background."
    note = f"In percent, R@1 unless the column says otherwise. {chance} Numbers besides speeds are at speed 1."
    body = "\n".join(lines)
    return (
        f"# Motion benchmark of {model}\n\n{' '.join(sentences)}\n\n{body}\n\n{note}\n\n![R@1 by speed](motion.png)\n"
    )


def plot(table: pd.DataFrame) -> Figure:
    """Draws R@1 of the motion by set of videos, and of the background, for each encoder and input."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True, width_ratios=(4, 3))
    for panel, label in zip(panels, CHANCE):
        part = table[table["label"] == label]
        part = part.assign(who=part["encoder"] + ", " + part["input"])
        part.pivot(index="videos", columns="who", values="R@1").reindex(
            [name for name in SETS if name in set(part["videos"])], columns=part["who"].unique()
        ).plot.bar(ax=panel, rot=0, legend=label == "motion", width=0.8)
        panel.axhline(CHANCE[label], color="0.5", linewidth=1, linestyle="--")
        panel.set(title=f"{label} (dashed: chance)", xlabel="", ylabel="R@1", ylim=(0, 1))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=8, frameon=False, title=None)
    return figure

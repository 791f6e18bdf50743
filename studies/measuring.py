"""Measures what a frozen encoder tells about videos: their label, and columns that it should not tell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import datasets
import torch

from studies.runs import Protocol
from vididi_hf.evaluation.features import EmbeddedVideos, extract_features
from vididi_hf.evaluation.knn import nearest_neighbors
from vididi_hf.evaluation.linear import LinearEvaluator
from vididi_hf.evaluation.results import EvaluationResult
from vididi_hf.evaluation.retrieval import RetrievalEvaluator, RetrievalSplits
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

LABEL = "label"
LINEAR = "linear"
"""The accuracy of the linear probe, among the metrics of retrieval."""
NUM_NEIGHBORS = 5


@dataclass
class Measurement:
    """What was measured of an encoder."""

    metrics: dict[str, dict[str, dict[str, float]]]  # by column ("label", "background", …), by input, by name
    chance: dict[str, float]  # by column, R@1 of a random order
    neighbors: dict[int, list[int]]  # by row of the queries, rows of the nearest gallery videos, by the first input
    results: dict[str, EvaluationResult]  # of the label, by evaluator


def measure(
    model: ViDiDiModel, processor: ViDiDiVideoProcessor, splits: RetrievalSplits, protocol: Protocol, **facts: Any
) -> Measurement:
    """Evaluates an encoder. Embeds the videos once for all metrics; videos without labels give neighbors only.

    `facts` are further arguments of the evaluators: `dataset`, `split`, `num_workers`, …
    """
    if LABEL not in splits.gallery.column_names:
        return Measurement({}, {}, _neighbors_without_labels(model, processor, splits, protocol, **facts), {})
    facts |= {"inputs": tuple(protocol.inputs), "num_clips": protocol.num_clips, "group_column": splits.group_column}
    retrieval = RetrievalEvaluator(splits.gallery, splits.queries, processor, **facts)
    linear = LinearEvaluator(splits.gallery, splits.queries, processor, **facts) if protocol.linear else None
    embedded = retrieval.embed(model)
    found = Measurement({}, {}, {}, {})
    for about in (LABEL, *protocol.probes):
        parts = embedded if about == LABEL else _relabeled(embedded, (retrieval.gallery, retrieval.queries), about)
        ranked = retrieval.score(*parts)
        numbers = {shown: dict(ranked.metrics[shown]) for shown in protocol.inputs}
        results: dict[str, EvaluationResult] = {"retrieval": ranked}
        if linear is not None:
            results[LINEAR] = linear.score(*parts)
            for shown in protocol.inputs:
                numbers[shown][LINEAR] = results[LINEAR].metrics[shown]["top-1"]
        found.metrics[about], found.chance[about] = numbers, chance_of(*parts)
        if about == LABEL:
            nearest = ranked.neighbors[protocol.inputs[0]][:, :NUM_NEIGHBORS]
            found.results, found.neighbors = results, dict(zip(parts[1].features.rows.tolist(), nearest.tolist()))
    return found


def chance_of(gallery: EmbeddedVideos, queries: EmbeddedVideos) -> float:
    """Computes R@1 of a gallery in random order: the mean share of videos with the label of the query.

    Videos of the query's own group do not count.
    """
    same = (queries.labels[:, None] == gallery.labels).double()
    if queries.groups is None or gallery.groups is None:
        return same.mean().item()
    allowed = (queries.groups[:, None] != gallery.groups).double()
    return ((same * allowed).sum(dim=1) / allowed.sum(dim=1)).mean().item()


def _relabeled(
    embedded: tuple[EmbeddedVideos, EmbeddedVideos], rows: tuple[datasets.Dataset, datasets.Dataset], column: str
) -> tuple[EmbeddedVideos, EmbeddedVideos]:
    """The same videos with the values of another column as labels."""
    for part in rows:
        if column not in part.column_names:
            raise ValueError(f"no column {column!r} to probe for, only {', '.join(part.column_names)}")
    values = [[str(value) for value in part[column][:]] for part in rows]
    numbers = {value: number for number, value in enumerate(sorted({*values[0], *values[1]}))}
    gallery, queries = (
        replace(part, labels=torch.tensor([numbers[value] for value in known])[part.features.rows])
        for part, known in zip(embedded, values)
    )
    return gallery, queries


def _neighbors_without_labels(
    model: ViDiDiModel,
    processor: ViDiDiVideoProcessor,
    splits: RetrievalSplits,
    protocol: Protocol,
    num_workers: int = 0,
    **_: Any,
) -> dict[int, list[int]]:
    how: dict[str, Any] = {"num_clips": protocol.num_clips, "num_workers": num_workers}
    gallery = extract_features(model, processor, splits.gallery, **how)
    queries, own = gallery, {}
    if splits.queries is splits.gallery:  # a video is not its own neighbor
        own = dict.fromkeys(("query_groups", "gallery_groups"), torch.arange(len(gallery.rows)))
    else:
        queries = extract_features(model, processor, splits.queries, **how)
    nearest = nearest_neighbors(queries.by_order[0], gallery.by_order[0], NUM_NEIGHBORS, **own)
    return dict(zip(queries.rows.tolist(), gallery.rows[nearest].tolist()))

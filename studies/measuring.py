"""What an encoder tells of videos, by one look at them: their label, and what it had better not tell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import datasets
import torch
from torch import Tensor

from studies.runs import Protocol
from vididi_hf.evaluation.features import EmbeddedVideos, extract_features
from vididi_hf.evaluation.knn import nearest_neighbors
from vididi_hf.evaluation.linear import LinearEvaluator
from vididi_hf.evaluation.results import EvaluationResult
from vididi_hf.evaluation.retrieval import RetrievalEvaluator, RetrievalSplits
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

LABEL = "label"
"""What is asked about first; the others are probes."""
LINEAR = "linear"
"""The accuracy of the linear probe, among the metrics of retrieval."""
NEIGHBOURS = 5


@dataclass
class Measurement:
    """What was measured of an encoder.

    Attributes:
        metrics: By what was asked about ("label", "background", …), by input, numbers by name.
        chance: By what was asked about, R@1 of a random order.
        neighbors: By row of the queries, the rows of their nearest neighbors in the gallery, by frames.
        results: By name, the results of the evaluators for the label.
    """

    metrics: dict[str, dict[str, dict[str, float]]]
    chance: dict[str, float]
    neighbors: dict[int, list[int]]
    results: dict[str, EvaluationResult]


def measure(
    model: ViDiDiModel,
    processor: ViDiDiVideoProcessor,
    splits: RetrievalSplits,
    protocol: Protocol,
    **facts: Any,
) -> Measurement:
    """Evaluates an encoder; videos without labels give neighbors only.

    The videos are embedded once for everything.

    Args:
        model: The encoder.
        processor: Chooses and prepares the clips.
        splits: The videos.
        protocol: What is measured.
        **facts: Further arguments of the evaluators: `dataset`, `split`, `num_workers`, …

    Raises:
        ValueError: If a probe is no column of the videos.
    """
    if LABEL not in splits.gallery.column_names:
        return Measurement({}, {}, _neighbors_without_labels(model, processor, splits.gallery, protocol, **facts), {})
    facts |= {"inputs": tuple(protocol.inputs), "num_clips": protocol.num_clips, "group_column": splits.group_column}
    retrieval = RetrievalEvaluator(splits.gallery, splits.queries, processor, **facts)
    linear = LinearEvaluator(splits.gallery, splits.queries, processor, **facts) if protocol.linear else None
    gallery, queries = retrieval.embed(model)

    metrics: dict[str, dict[str, dict[str, float]]] = {}
    chance: dict[str, float] = {}
    neighbors: dict[int, list[int]] = {}
    results: dict[str, EvaluationResult] = {}
    for about in (LABEL, *protocol.probes):
        if about == LABEL:
            parts = (gallery, queries)
        else:
            parts = _relabeled(gallery, queries, retrieval.gallery, retrieval.queries, about)
        chance[about] = chance_of(*parts)
        ranked = retrieval.score(*parts)
        metrics[about] = {shown: dict(ranked.metrics[shown]) for shown in protocol.inputs}
        found: dict[str, EvaluationResult] = {"retrieval": ranked}
        if linear is not None:
            found[LINEAR] = linear.score(*parts)
            for shown in protocol.inputs:
                metrics[about][shown][LINEAR] = found[LINEAR].metrics[shown]["top-1"]
        if about == LABEL:
            results = found
            nearest = ranked.neighbors[protocol.inputs[0]][:, :NEIGHBOURS]
            neighbors = dict(zip(queries.features.rows.tolist(), nearest.tolist()))
    return Measurement(metrics, chance, neighbors, results)


def chance_of(gallery: EmbeddedVideos, queries: EmbeddedVideos) -> float:
    """Computes R@1 of a gallery in random order: the mean, over queries, of the share of videos with their label.

    Videos that a query is not compared with do not count.
    """
    same = (queries.labels[:, None] == gallery.labels).double()
    if queries.groups is None or gallery.groups is None:
        return same.mean().item()
    allowed = (queries.groups[:, None] != gallery.groups).double()
    return ((same * allowed).sum(dim=1) / allowed.sum(dim=1)).mean().item()


def _relabeled(
    gallery: EmbeddedVideos,
    queries: EmbeddedVideos,
    gallery_rows: datasets.Dataset,
    query_rows: datasets.Dataset,
    column: str,
) -> tuple[EmbeddedVideos, EmbeddedVideos]:
    """The same videos with the values of another column as labels, numbered alike."""
    for rows in (gallery_rows, query_rows):
        if column not in rows.column_names:
            raise ValueError(f"no column {column!r} to probe for, only {', '.join(rows.column_names)}")
    values = [[str(value) for value in rows[column][:]] for rows in (gallery_rows, query_rows)]
    numbers = {value: number for number, value in enumerate(sorted({*values[0], *values[1]}))}
    searched, asked = (
        replace(part, labels=torch.tensor([numbers[value] for value in known])[part.features.rows])
        for part, known in zip((gallery, queries), values)
    )
    return searched, asked


def _neighbors_without_labels(
    model: ViDiDiModel,
    processor: ViDiDiVideoProcessor,
    rows: datasets.Dataset,
    protocol: Protocol,
    num_workers: int = 0,
    **_: Any,
) -> dict[int, list[int]]:
    features = extract_features(model, processor, rows, num_clips=protocol.num_clips, num_workers=num_workers)
    vectors: Tensor = features.by_order[0]
    own = torch.arange(len(vectors))
    nearest = nearest_neighbors(vectors, vectors, NEIGHBOURS, query_groups=own, gallery_groups=own)
    return dict(zip(features.rows.tolist(), features.rows[nearest].tolist()))

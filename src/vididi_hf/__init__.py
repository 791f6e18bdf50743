"""vididi_hf: learn motion from unlabelled video, in the Hugging Face ecosystem.

A video and its temporal derivatives are views of one dynamics; one encoder learns to embed them consistently
("Unfolding Videos Dynamics via Taylor Expansion", arXiv 2409.02371).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vididi_hf.auto import register_on_import

__version__ = "0.1.0"

# Importing the package costs nothing: a name is imported when it is first used.
_MODULE_OF = {
    "ViDiDiConfig": "configuration_vididi",
    "ViDiDiModel": "modeling_vididi",
    "ViDiDiForActionDetection": "detection_vididi",
    "ViDiDiForPreTraining": "pretraining.modeling",
    "ViDiDiForVideoClassification": "classification_vididi",
    "ViDiDiVideoProcessor": "video_processing_vididi",
    "temporal_derivative": "derivatives_vididi",
    "taylor_expand": "derivatives_vididi",
    "AlternatingSchedule": "pretraining.schedule",
    "PretrainingRecipe": "pretraining.recipe",
    "pretrain": "pretraining.loop",
    "load_video_dataset": "data.registry",
    "PreparationOptions": "data.preparation",
    "prepare_dataset": "data.preparation",
    "RetrievalEvaluator": "evaluation.retrieval",
    "KNNEvaluator": "evaluation.knn",
    "LinearEvaluator": "evaluation.linear",
    "EmbeddingOptions": "search.embedding",
    "embed_videos": "search.embedding",
    "SearchOptions": "search.videos",
    "search_videos": "search.videos",
    "search_exact": "search.exact",
}

__all__ = sorted(_MODULE_OF)

if TYPE_CHECKING:
    from vididi_hf.classification_vididi import ViDiDiForVideoClassification
    from vididi_hf.configuration_vididi import ViDiDiConfig
    from vididi_hf.data.preparation import PreparationOptions, prepare_dataset
    from vididi_hf.data.registry import load_video_dataset
    from vididi_hf.derivatives_vididi import taylor_expand, temporal_derivative
    from vididi_hf.detection_vididi import ViDiDiForActionDetection
    from vididi_hf.evaluation.knn import KNNEvaluator
    from vididi_hf.evaluation.linear import LinearEvaluator
    from vididi_hf.evaluation.retrieval import RetrievalEvaluator
    from vididi_hf.modeling_vididi import ViDiDiModel
    from vididi_hf.pretraining.loop import pretrain
    from vididi_hf.pretraining.modeling import ViDiDiForPreTraining
    from vididi_hf.pretraining.recipe import PretrainingRecipe
    from vididi_hf.pretraining.schedule import AlternatingSchedule
    from vididi_hf.search.embedding import EmbeddingOptions, embed_videos
    from vididi_hf.search.exact import search_exact
    from vididi_hf.search.videos import SearchOptions, search_videos
    from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_on_import()

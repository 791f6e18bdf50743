"""vididi_hf: learn motion from unlabeled video, in the Hugging Face ecosystem.

One encoder learns to embed a video and its temporal derivatives consistently ("Unfolding Videos Dynamics via Taylor
Expansion", arXiv 2409.02371). Importing the package registers its classes with transformers' Auto classes.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

# Each name is imported when it is first used.
_MODULE_OF = {
    "AlternatingSchedule": "pretraining.order_schedule",
    "ClassificationEvaluator": "evaluation.classification",
    "DetectionEvaluator": "evaluation.detection",
    "DetectionRecipe": "finetuning.recipe",
    "EmbeddingOptions": "search.options",
    "FinetuningRecipe": "finetuning.recipe",
    "KNNEvaluator": "evaluation.knn",
    "LinearEvaluator": "evaluation.linear",
    "PreparationOptions": "data.preparation.options",
    "PretrainingRecipe": "pretraining.recipe",
    "PublishOptions": "hub.options",
    "RetrievalEvaluator": "evaluation.retrieval",
    "SearchOptions": "search.options",
    "ViDiDiConfig": "configuration_vididi",
    "ViDiDiForActionDetection": "detection_vididi",
    "ViDiDiForPreTraining": "pretraining.modeling",
    "ViDiDiForVideoClassification": "classification_vididi",
    "ViDiDiModel": "modeling_vididi",
    "ViDiDiVideoProcessor": "video_processing_vididi",
    "embed_videos": "search.embedding",
    "finetune": "finetuning.recognition",
    "finetune_detection": "finetuning.detection",
    "load_video_dataset": "data.registry",
    "prepare_dataset": "data.preparation.prepare",
    "pretrain": "pretraining.loop",
    "publish": "hub.publishing",
    "search_videos": "search.search",
    "taylor_expand": "derivatives_vididi",
    "temporal_derivative": "derivatives_vididi",
}

# Old names, which still work in this version.
_DEPRECATED = {"search_exact": "search.search"}

__all__ = sorted(_MODULE_OF)

if TYPE_CHECKING:
    from vididi_hf.classification_vididi import ViDiDiForVideoClassification
    from vididi_hf.configuration_vididi import ViDiDiConfig
    from vididi_hf.data.preparation.options import PreparationOptions
    from vididi_hf.data.preparation.prepare import prepare_dataset
    from vididi_hf.data.registry import load_video_dataset
    from vididi_hf.derivatives_vididi import taylor_expand, temporal_derivative
    from vididi_hf.detection_vididi import ViDiDiForActionDetection
    from vididi_hf.evaluation.classification import ClassificationEvaluator
    from vididi_hf.evaluation.detection import DetectionEvaluator
    from vididi_hf.evaluation.knn import KNNEvaluator
    from vididi_hf.evaluation.linear import LinearEvaluator
    from vididi_hf.evaluation.retrieval import RetrievalEvaluator
    from vididi_hf.finetuning.detection import finetune_detection
    from vididi_hf.finetuning.recipe import DetectionRecipe, FinetuningRecipe
    from vididi_hf.finetuning.recognition import finetune
    from vididi_hf.hub.options import PublishOptions
    from vididi_hf.hub.publishing import publish
    from vididi_hf.modeling_vididi import ViDiDiModel
    from vididi_hf.pretraining.loop import pretrain
    from vididi_hf.pretraining.modeling import ViDiDiForPreTraining
    from vididi_hf.pretraining.order_schedule import AlternatingSchedule
    from vididi_hf.pretraining.recipe import PretrainingRecipe
    from vididi_hf.search.embedding import embed_videos
    from vididi_hf.search.options import EmbeddingOptions, SearchOptions
    from vididi_hf.search.search import search_videos
    from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor


def __getattr__(name: str) -> Any:
    if name in _DEPRECATED:
        warnings.warn(f"vididi_hf.{name} will be removed", FutureWarning, stacklevel=2)
    elif name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    register_auto_classes()
    value = getattr(importlib.import_module(f"{__name__}.{(_MODULE_OF | _DEPRECATED)[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


@cache
def register_auto_classes() -> None:
    """Registers the configuration, the models and the processor with transformers' Auto classes."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES
    from transformers.pipelines import PIPELINE_REGISTRY

    from vididi_hf.configuration_vididi import ViDiDiConfig
    from vididi_hf.pipeline_vididi import ViDiDiVideoClassificationPipeline
    from vididi_hf.saving_vididi import AUTO_MAPS

    places = {auto: place for auto_map in AUTO_MAPS.values() for auto, place in auto_map.items()}
    places["AutoModelForPreTraining"] = "pretraining.modeling.ViDiDiForPreTraining"  # repositories do not carry it
    for auto, place in places.items():
        module, name = place.rsplit(".", 1)
        key = ViDiDiConfig.model_type if auto == "AutoConfig" else ViDiDiConfig
        value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        getattr(transformers, auto).register(key, value, exist_ok=True)
    # The pipeline reads these names, not the registered classes, before it says that a model is not supported.
    MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES[ViDiDiConfig.model_type] = "ViDiDiForVideoClassification"
    PIPELINE_REGISTRY.supported_tasks["video-classification"]["impl"] = ViDiDiVideoClassificationPipeline


# Registration imports torch and transformers. The command line puts it off until a command runs, so that `--help`
# answers at once. While Python starts `-m vididi_hf`, sys.argv[0] is "-m".
if Path((sys.argv or [""])[0]).stem not in ("-m", "vididi"):
    register_auto_classes()

"""What a fine-tuning run builds from a pretrained encoder: processor, augmentation and classifier."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from torch import nn

from vididi_hf.batch_norm_vididi import synchronize
from vididi_hf.classification_vididi import ViDiDiClassifier
from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.data.augment import ClipAugmentation
from vididi_hf.data.options import FRAME_DISTANCES
from vididi_hf.evaluation.inputs import INPUTS
from vididi_hf.finetuning.recipe import FinetuningRecipe
from vididi_hf.loading import is_ours, load_checkpoint, load_processor, read_model_config
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.pretraining.continuation import copy_weights
from vididi_hf.reading import reading
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

Classifier = TypeVar("Classifier", bound=ViDiDiClassifier)


def build_processor(recipe: FinetuningRecipe) -> ViDiDiVideoProcessor:
    """Loads the checkpoint's processor, changed as the recipe says."""
    changes: dict[str, Any] = {name: getattr(recipe, name) for name in ("num_frames", *FRAME_DISTANCES)}
    if (side := recipe.image_size) is not None:
        changes |= {"size": {"shortest_edge": round(side * 8 / 7)}, "crop_size": {"height": side, "width": side}}
    given: Any = {name: value for name, value in changes.items() if value is not None}
    return load_processor(recipe.model, **given)


def build_augmentation(recipe: FinetuningRecipe, processor: ViDiDiVideoProcessor) -> ClipAugmentation:
    """Builds the augmentation of training clips, neither gray nor blurred, in the size of the processor."""
    return ClipAugmentation(
        processor.crop_size["height"],
        area=(recipe.crop_area[0], recipe.crop_area[1]),
        flip_probability=recipe.flip_probability,
        jitter_probability=recipe.color_probability,
        gray_probability=0.0,
        blur_probability=0.0,
    )


def load_classifier(
    kind: type[Classifier], recipe: FinetuningRecipe, names: Sequence[str], **settings: Any
) -> Classifier:
    """Loads the encoder with a new classifier of the named classes, and freezes what is not trained."""
    location, values = read_model_config(recipe.model)
    sizes = {"num_frames": recipe.num_frames, "image_size": recipe.image_size}
    settings |= {name: value for name, value in sizes.items() if value is not None}
    settings |= {"classifier_orders": INPUTS[recipe.inputs[0]], "classifier_dropout": recipe.dropout}
    settings["id2label"] = dict(enumerate(names))
    settings["label2id"] = {name: number for number, name in enumerate(names)}
    if not is_ours(values):  # an encoder of transformers
        with reading(location):
            encoder = ViDiDiModel.from_encoder(location, random_init=recipe.random_init, **settings)
        model = kind(encoder.config)
        model.vididi.load_state_dict(encoder.state_dict())
    elif recipe.random_init:
        model = kind(ViDiDiConfig.from_pretrained(location, **settings))
    else:
        settings |= {"dtype": torch.float32, "ignore_mismatched_sizes": True}
        model, report = load_checkpoint(kind, recipe.model, new=("classifier.",), **settings)
        match_head(model, values, report)
    orders = {order for name in recipe.inputs for order in INPUTS[name]}
    separate = set(model.config.derivative_orders) if model.config.batch_norm == "per_order" else set()
    if len(orders) > 1 and not orders <= separate:
        model = separate_statistics(model, orders)
    model.train_only(recipe.train)
    state = PartialState()
    if state.num_processes > 1 and state.device.type == "cuda":
        synchronize(model)
    if model.config.backbone_config is None:
        nn.Module.to(model, memory_format=torch.channels_last_3d)  # in place
    return model


def match_head(model: ViDiDiClassifier, saved: dict[str, Any], report: Any) -> None:
    """Gives each class of a loaded classifier the weights of its name, or starts anew if the classes have changed."""
    if "classifier.weight" in report["missing_keys"]:  # the checkpoint of an encoder
        return
    old = {str(name): int(number) for number, name in (saved.get("id2label") or {}).items()}
    rows = [old.get(str(name)) for _, name in sorted((model.config.id2label or {}).items())]
    if rows == list(range(len(old))):
        return
    if not report["mismatched_keys"] and sorted(old.values()) == sorted(row for row in rows if row is not None):
        with torch.no_grad():
            for parameter in model.classifier.parameters():
                parameter.copy_(parameter[rows].clone())
        note = "the same classes in another order: its classifier is reordered"
    else:
        model.classifier.reset_parameters()
        note = "other classes: a new classifier replaces its own"
    PartialState().print(f"note: the checkpoint has {note}")


def separate_statistics(model: Classifier, orders: Iterable[int]) -> Classifier:
    """Returns the model with BatchNorm statistics per order, which start from those that served it before."""
    config = copy.deepcopy(model.config)
    config.derivative_orders = tuple(sorted({*orders, *config.derivative_orders}))
    config.view_forward, config.batch_norm = "separate", "per_order"
    separated = type(model)(config)
    copy_weights(model.vididi, separated.vididi)
    separated.classifier.load_state_dict(model.classifier.state_dict())
    return separated

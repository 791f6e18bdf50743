"""Files of other layouts into folders of ours, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from vididi_hf.hub.conversion.accounting import ConversionReport
from vididi_hf.hub.conversion.authors_layout import to_authors, to_authors_training
from vididi_hf.hub.conversion.torchvision_layout import from_tensors, to_torchvision
from vididi_hf.hub.publishing import load_checkpoint_model
from vididi_hf.hub.tensor_files import read_tensors, write_tensors
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining
from vididi_hf.pretraining.checkpoints import CHECKPOINTS
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

LAYOUTS = ("torchvision", "authors", "authors_training")
OBJECTIVE_FILE = "training_state/objective.safetensors"  # within a checkpoint of a run


def convert_file(
    source: str | Path, folder: str | Path, *, prefix: str | None = None, with_classifier: bool = False, **options: Any
) -> ConversionReport:
    """Makes a folder that `from_pretrained` loads, with model and processor, of a file in any of the layouts.

    Args:
        source: The file; see [`read_tensors`].
        folder: Where to write; new or empty.
        prefix: See [`from_tensors`].
        with_classifier: See [`from_tensors`].
        **options: Further fields of the configuration. The processor takes `num_frames` and `image_size` from it.

    Returns:
        What became of everything in the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the folder is not empty, or for the reasons of `read_tensors` and `from_tensors`.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is no empty folder; choose a new one")
    tensors, left_out = read_tensors(source)
    model, report = from_tensors(tensors, prefix=prefix, with_classifier=with_classifier, **options)
    report.dropped |= left_out
    model.save_pretrained(folder)
    size = model.config.image_size
    processor = ViDiDiVideoProcessor(
        num_frames=model.config.num_frames, crop_size=size, size={"shortest_edge": size * 8 // 7}
    )
    processor.save_pretrained(folder)
    return report


def convert_folder(checkpoint: str | Path, path: str | Path, layout: str, order: int | None = None) -> ConversionReport:
    """Makes a file in one of the layouts of a checkpoint of ours.

    Args:
        checkpoint: Folder of a run, of one of its checkpoints, or any that `save_pretrained` wrote. The layout
            `authors_training` needs one with the heads of the objective, such as `checkpoints/step-…` of a run.
        path: The file; safetensors if it is named so.
        layout: One of `LAYOUTS`.
        order: See [`to_torchvision`].

    Returns:
        What became of every tensor.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If the layout is unknown, the checkpoint lacks what it needs, or for the reasons of
            `to_torchvision`.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"the layout must be vididi, {', '.join(LAYOUTS)}; got {layout!r}")
    checkpoint = Path(checkpoint)
    model: Any = load_checkpoint_model(checkpoint, encoder_only=layout != "torchvision")
    content: Mapping[str, Any]
    if layout == "authors_training":
        content, report = to_authors_training(_with_heads(checkpoint, model), order)
    else:
        content, report = (to_authors if layout == "authors" else to_torchvision)(model, order)
    write_tensors(path, content)
    return report


def _with_heads(checkpoint: Path, encoder: ViDiDiModel) -> ViDiDiForPreTraining:
    """The model that was pretrained: heads from a run's checkpoint, or from one of the whole model."""
    heads = checkpoint / OBJECTIVE_FILE
    if heads.exists():
        model = ViDiDiForPreTraining(encoder.config)
        tensors = {f"vididi.{name}": tensor for name, tensor in encoder.state_dict().items()}
        model.load_state_dict(tensors | load_file(heads))
        return model
    loaded: Any = ViDiDiForPreTraining.from_pretrained(checkpoint, output_loading_info=True)
    if missing := [name for name in loaded[1]["missing_keys"] if name.startswith("objective.")]:
        raise ValueError(
            f"{checkpoint} holds no heads of the objective, such as {missing[0]}: name one of a run's {CHECKPOINTS}"
        )
    return loaded[0]

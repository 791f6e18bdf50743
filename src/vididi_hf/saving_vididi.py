"""Saving: repositories carry this code and a card, so that they load with `trust_remote_code=True` alone."""

import os
import shutil
from pathlib import Path
from typing import Any

# File of a repository -> Auto class -> the module next to this one and the class in it.
AUTO_MAPS: dict[str, dict[str, str]] = {
    "config.json": {
        "AutoConfig": "configuration_vididi.ViDiDiConfig",
        "AutoModel": "modeling_vididi.ViDiDiModel",
        "AutoModelForObjectDetection": "detection_vididi.ViDiDiForActionDetection",
        "AutoModelForVideoClassification": "classification_vididi.ViDiDiForVideoClassification",
    },
    "video_preprocessor_config.json": {"AutoVideoProcessor": "video_processing_vididi.ViDiDiVideoProcessor"},
}
# How a card ends that is the template of transformers, which describes nothing.
_TEMPLATE = "This model card has been automatically generated."
_CARD = """\
---
library_name: transformers
{tag}tags: [vididi, video, self-supervised-learning]
---

# {name}

A [ViDiDi](https://arxiv.org/abs/2409.02371) {kind} with the network `{config.backbone_name}`.
It sees {config.num_frames} frames of {config.image_size} × {config.image_size} pixels.
This model has not been evaluated.

## Usage

This runs the model's code from this repository, so read it first. The processor must be saved here, too.

```python
from transformers import {auto}, AutoVideoProcessor

model = {auto}.from_pretrained("{name}", trust_remote_code=True).eval()
processor = AutoVideoProcessor.from_pretrained("{name}", trust_remote_code=True)
{use}
```
"""
# Class of a model -> what its card says of it: kind, pipeline, Auto class, last line of the example.
_FACTS = {
    "ViDiDiForVideoClassification": (
        "video classifier",
        "pipeline_tag: video-classification\n",
        "AutoModelForVideoClassification",
        'logits = model(**processor("path/to/video.mp4", num_clips=4)).logits',
    ),
    "ViDiDiForActionDetection": (
        "action detector",
        "",
        "AutoModelForObjectDetection",
        'logits = model(**processor("path/to/video.mp4"), boxes=boxes).logits  # one tensor (boxes, 4), in fractions',
    ),
}
_ENCODER = (
    "video encoder",
    "",
    "AutoModel",
    'features = model(**processor("path/to/video.mp4", num_clips=4)).pooler_output',
)


class CarriesCode:
    """Makes `save_pretrained` of a configuration or a processor add the code, the `auto_map` and a card."""

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Saves as the base class does, with the code next to the file."""
        here, folder = Path(__file__).parent, Path(save_directory)
        name = "config.json" if hasattr(self, "model_type") else "video_preprocessor_config.json"
        # Code that came with a repository has only the modules that were needed.
        carried = {auto: where for auto, where in AUTO_MAPS[name].items() if (here / where).with_suffix(".py").exists()}
        self.auto_map = carried
        saved = super().save_pretrained(save_directory)  # type: ignore[misc]  # of the class that this one is mixed into
        for file in here.glob("*_vididi.py"):
            shutil.copyfile(file, folder / file.name)
        if getattr(self, "architectures", None):
            write_card(folder, self, folder.name)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)  # type: ignore[attr-defined]
        return saved


def write_card(folder: str | os.PathLike, config: Any, name: str) -> None:
    """Writes the card of a model that was just saved, unless there is one that says something."""
    card = Path(folder, "README.md")
    if not card.exists() or _TEMPLATE in card.read_text(encoding="utf-8"):
        kind, tag, auto, use = _FACTS.get(config.architectures[0], _ENCODER)
        card.write_text(
            _CARD.format(name=name, config=config, kind=kind, tag=tag, auto=auto, use=use), encoding="utf-8"
        )

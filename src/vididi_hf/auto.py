"""Registration with the Auto classes, put off until somebody imports them.

`AutoModel` and its kin need classes, and our classes need torch and much of transformers: seconds that
`import vididi_hf` should not cost. So an import hook waits for transformers' modules of the Auto classes; when one is
loaded, ours are loaded and registered. Either side may come first, and either may import the other while it is itself
half loaded, so a registration happens when both have finished.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType


def _register_config(auto: ModuleType) -> None:
    from vididi_hf.configuration_vididi import ViDiDiConfig

    auto.AutoConfig.register(ViDiDiConfig.model_type, ViDiDiConfig, exist_ok=True)


def _register_models(auto: ModuleType) -> None:
    from vididi_hf.classification_vididi import ViDiDiForVideoClassification
    from vididi_hf.configuration_vididi import ViDiDiConfig
    from vididi_hf.detection_vididi import ViDiDiForActionDetection
    from vididi_hf.modeling_vididi import ViDiDiModel
    from vididi_hf.pretraining.modeling import ViDiDiForPreTraining

    auto.AutoModel.register(ViDiDiConfig, ViDiDiModel, exist_ok=True)
    auto.AutoModelForPreTraining.register(ViDiDiConfig, ViDiDiForPreTraining, exist_ok=True)
    auto.AutoModelForVideoClassification.register(ViDiDiConfig, ViDiDiForVideoClassification, exist_ok=True)
    auto.AutoModelForObjectDetection.register(ViDiDiConfig, ViDiDiForActionDetection, exist_ok=True)
    # Names only: the pipeline looks here, and not at what is registered, before it says that a model is unsupported.
    names = auto.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES
    names[ViDiDiConfig.model_type] = ViDiDiForVideoClassification.__name__


def _register_processor(auto: ModuleType) -> None:
    from vididi_hf.configuration_vididi import ViDiDiConfig
    from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

    auto.AutoVideoProcessor.register(ViDiDiConfig, ViDiDiVideoProcessor, exist_ok=True)


# transformers' module of an Auto class -> (our modules that its registration needs, the registration).
_REGISTRATIONS: dict[str, tuple[tuple[str, ...], Callable[[ModuleType], None]]] = {
    "transformers.models.auto.configuration_auto": (("vididi_hf.configuration_vididi",), _register_config),
    "transformers.models.auto.modeling_auto": (
        (
            "vididi_hf.configuration_vididi",
            "vididi_hf.backbone_vididi",  # imports the Auto classes, through transformers' layers
            "vididi_hf.modeling_vididi",
            "vididi_hf.classification_vididi",
            "vididi_hf.detection_vididi",
            "vididi_hf.pretraining.modeling",
        ),
        _register_models,
    ),
    "transformers.models.auto.video_processing_auto": (
        ("vididi_hf.configuration_vididi", "vididi_hf.video_processing_vididi"),
        _register_processor,
    ),
}
_WATCHED = {*_REGISTRATIONS, *(name for ours, _ in _REGISTRATIONS.values() for name in ours)}


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds the watched modules as Python would, and registers what has become possible once one is executed."""

    def __init__(self) -> None:
        self.finished = {name for name in _WATCHED if name in sys.modules}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _WATCHED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            self.finished.add(fullname)
            self.register()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec

    def register(self) -> None:
        """Registers with every Auto class that is loaded, unless one of our modules is being loaded just now."""
        for auto, (ours, register) in _REGISTRATIONS.items():
            half_loaded = any(name in sys.modules and name not in self.finished for name in ours)
            if auto not in self.finished or half_loaded:
                continue
            for name in ours:
                importlib.import_module(name)
            register(sys.modules[auto])


def register_on_import() -> None:
    """Registers config, models and processor with the Auto classes: now, or as soon as those are imported."""
    if not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        hook = _AfterImport()
        sys.meta_path.insert(0, hook)
        hook.register()

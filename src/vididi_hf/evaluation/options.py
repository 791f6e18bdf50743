"""The options of `vididi evaluate`."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from vididi_hf.data.options import ALL_ROWS, FRAME_DISTANCES, DatasetChoice
from vididi_hf.detection.options import BoxOptions
from vididi_hf.evaluation.inputs import CLASSIFIER_INPUTS, INPUTS
from vididi_hf.options import Options, option
from vididi_hf.reading import REFERENCE

MODEL_HELP = f"Checkpoint folder, Hub id, or {REFERENCE!r}: the tiny encoder of this package."
_HELP = f"Some of {', '.join(CLASSIFIER_INPUTS)}."
C_VALUES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(kw_only=True)
class EncoderOptions(Options):
    """The model to evaluate and the clips it sees."""

    alternatives = FRAME_DISTANCES

    model: str = option(help=MODEL_HELP)
    random_init: bool = option(default=False, help="Use random weights, to measure the architecture without training.")
    num_clips: int = option(default=10, at_least=1, help="Clips per video, evenly spaced; their features are averaged.")
    num_frames: int | None = option(default=None, at_least=2, help="Frames per clip. Default: the checkpoint's.")
    frame_interval: float | None = option(
        default=None, at_least=0.001, help="Seconds between frames. Default: the checkpoint's."
    )
    frame_stride: int | None = option(default=None, at_least=1, help="Frame distance, instead of seconds.")
    batch_size: int = option(default=16, at_least=1, help="Videos per forward pass; each has num_clips clips.")
    num_workers: int = option(default=2, at_least=0, help="Processes that decode videos.")
    device: str = option(default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")
    seed: int = option(default=0, at_least=0, help="Seed of all random numbers.")


@dataclass(kw_only=True)
class DatasetOptions(DatasetChoice, EncoderOptions):
    """A model and the data set that it is evaluated on."""

    progress: bool = option(default=True, help="Show progress bars.")


@dataclass(kw_only=True)
class FrozenOptions(DatasetOptions):
    """The options that all evaluations of a frozen encoder share."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "checkpoint": {},  # the clips of the training
        "paper": {"num_clips": 10, "num_frames": 16, "frame_stride": 4},  # as the authors' code evaluates
    }

    preset: str = option(
        default="checkpoint",
        choices=("checkpoint", "paper"),
        help="Clips as the checkpoint's, or 10 of 16 frames at stride 4, as in the authors' code.",
    )
    gallery_split: str = option(default="train", help=f"Split to search or to learn from; {ALL_ROWS!r} takes all rows.")
    query_split: str = option(default="test", help="Split of the test videos.")
    group_column: str | None = option(
        default=None,
        old_names=("leave_out",),
        help="Without a test split: compare only videos of gallery_split that differ in this column.",
    )
    inputs: list[str] = option(
        default_factory=lambda: list(INPUTS), choices=tuple(INPUTS), help=f"Some of {', '.join(INPUTS)}."
    )


@dataclass(kw_only=True)
class RetrievalOptions(FrozenOptions):
    """The options of `vididi evaluate retrieval`."""

    output: str = option(default="retrieval", help="Folder of metrics.json and retrieval.png, or a .json file.")
    gallery_queries: int = option(default=4, at_least=0, help="Queries in the picture; 0 draws none.")


@dataclass(kw_only=True)
class KNNOptions(FrozenOptions):
    """The options of `vididi evaluate knn`."""

    inputs: list[str] = option(default_factory=lambda: list(CLASSIFIER_INPUTS), choices=CLASSIFIER_INPUTS, help=_HELP)
    k: int = option(default=20, at_least=1, help="Neighbors that vote.")
    temperature: float = option(default=0.07, help="Lower values let the nearest neighbors count more.")
    output: str = option(default="knn", help="Folder of metrics.json, or a .json file.")


@dataclass(kw_only=True)
class LinearOptions(FrozenOptions):
    """The options of `vididi evaluate linear`."""

    inputs: list[str] = option(default_factory=lambda: list(CLASSIFIER_INPUTS), choices=CLASSIFIER_INPUTS, help=_HELP)
    C: list[float] = option(
        default_factory=lambda: list(C_VALUES),
        old_names=("strengths",),
        help="Inverse regularization strengths; a fifth of the training videos chooses one.",
    )
    output: str = option(default="linear", help="Folder of metrics.json, or a .json file.")


@dataclass(kw_only=True)
class ClassificationOptions(DatasetOptions):
    """The options of `vididi evaluate classification`."""

    split: str = option(default="test", help=f"Split of the test videos; {ALL_ROWS!r} takes all rows.")
    inputs: list[str] | None = option(
        default=None, choices=CLASSIFIER_INPUTS, help=f"{_HELP} Default: the input of the training."
    )
    output: str = option(default="classification", help="Folder of metrics.json, or a .json file.")


@dataclass(kw_only=True)
class DetectionOptions(BoxOptions, ClassificationOptions):
    """The options of `vididi evaluate detection`."""

    dataset: str = option(help="jhmdb, ucf101-24, ava, or any data set with the same box columns.")
    batch_size: int = option(default=16, at_least=1, help="Key frames per forward pass.")
    output: str = option(default="detection", help="Folder of metrics.json, the predictions and the picture.")
    num_clips: int = field(default=1, init=False)  # the one around the key frame


@dataclass(kw_only=True)
class MotionOptions(EncoderOptions):
    """The options of `vididi evaluate motion`."""

    num_gallery: int = option(default=240, at_least=40, help="Generated videos to search and to fit probes on.")
    num_queries: int = option(default=160, at_least=8, help="Generated test videos.")
    output: str = option(default="motion", help="Folder of motion.md, motion.png and motion.json.")
    progress: bool = option(default=True, help="Show progress bars.")
    num_clips: int = field(default=1, init=False)
    frame_interval: float | None = field(default=None, init=False)  # that of the generated videos
    frame_stride: int | None = field(default=None, init=False)
    num_workers: int = field(default=0, init=False)


@dataclass(kw_only=True)
class MTEBOptions(EncoderOptions):
    """The options of `vididi evaluate mteb`."""

    tasks: list[str] = option(help="Video tasks of mteb, or a benchmark: 'MVEB(video)'. mteb downloads their data.")
    inputs: list[str] = option(
        default_factory=lambda: ["frames"], choices=tuple(INPUTS), help=f"Some of {', '.join(INPUTS)}."
    )
    output_dir: str = option(default="mteb", help="Folder of a report per task and split, and of mteb's own results.")
    progress: bool = option(default=True, help="Show progress bars.")

"""MVEB, the video tasks of the benchmark library mteb: its encoder interface, and its scores as our reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from numpy.typing import NDArray

from vididi_hf.evaluation.checks import check_finite
from vididi_hf.evaluation.features import extract_features
from vididi_hf.evaluation.inputs import INPUTS, sampling_facts
from vididi_hf.evaluation.results import EvaluationResult
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.options import suggestion
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

BENCHMARK = "MVEB(video)"  # the tasks of MVEB that need neither text nor sound


class MTEBEncoder:
    """An encoder with the interface of mteb: `mteb.evaluate(MTEBEncoder(model, processor), tasks)`.

    The embeddings are those of `vididi embed`, of unit length. Source: `EncoderProtocol` of
    https://github.com/embeddings-benchmark/mteb.

    Args:
        model: The encoder, on its device.
        processor: Defines length, interval and size of the clips.
        inputs: What the encoder sees: `"frames"`, `"derivative"` or `"both"`.
        num_clips: Clips per video, whose features are averaged.
        num_workers: Processes that decode videos.

    Raises:
        ImportError: If mteb is not installed.
    """

    def __init__(
        self,
        model: ViDiDiModel,
        processor: ViDiDiVideoProcessor,
        inputs: str = "frames",
        num_clips: int = 10,
        num_workers: int = 0,
    ):
        _import_mteb()
        from mteb.models.model_meta import ModelMeta, ScoringFunction
        from mteb.similarity_functions import cos_sim, pairwise_cos_sim

        self.model, self.processor, self.orders = model, processor, INPUTS[inputs]
        self.settings = {"orders": self.orders, "num_clips": num_clips, "num_workers": num_workers}
        self.similarity, self.similarity_pairwise = cos_sim, pairwise_cos_sim
        # A fixed revision would let mteb's cache return the scores of other weights.
        facts = {"name": "vididi", "revision": uuid4().hex, "modalities": ["video"]}
        self.mteb_model_meta = ModelMeta.create_empty(facts | {"similarity_fn_name": ScoringFunction.COSINE})

    def encode(self, inputs: Any, **kwargs: Any) -> NDArray[Any]:
        """Embeds the videos of mteb's `DataLoader`: float32 (videos, orders · hidden_size), in their order.

        Raises:
            ValueError: If a video cannot be decoded, because mteb needs a row for each, or a feature is not finite.
        """
        rows, progress = inputs.dataset, kwargs.get("show_progress_bar", False)  # clips are sampled while decoding
        settings: Any = self.settings | {"batch_size": kwargs.get("batch_size", 16), "progress": progress}
        found = extract_features(self.model, self.processor, rows, **settings)
        if found.broken:
            what = "videos cannot be decoded, and mteb leaves none out, such as"
            raise ValueError(f"{len(found.broken)} of {len(rows)} {what} {': '.join(next(iter(found.broken.items())))}")
        order = found.rows.argsort()  # batches group videos of one size
        vectors = found.embeddings(self.orders)[order]
        check_finite(vectors, found.rows[order], rows)
        return vectors.numpy()


def find_tasks(names: Sequence[str]) -> list[Any]:
    """Returns mteb's tasks of these names; that of a benchmark stands for all its tasks."""
    mteb = _import_mteb()
    tasks: list[Any] = []
    for name in names:
        try:
            tasks += mteb.get_benchmark(name).tasks if name.startswith("MVEB") else [mteb.get_task(name)]
        except KeyError:
            known = mteb.get_tasks(modalities=["video"], exclusive_modality_filter=True)
            hint = suggestion(name, [BENCHMARK, *(task.metadata.name for task in known)])
            raise ValueError(f"mteb has no task {name!r}{hint or f': {BENCHMARK!r} takes all of MVEB'}") from None
    for task in tasks:
        if (needed := task.metadata.modalities) != ["video"]:
            what = f"needs {' and '.join(needed)}, and these encoders see only video: choose tasks of {BENCHMARK!r}"
            raise ValueError(f"the task {task.metadata.name} {what}")
    return tasks


def evaluate_task(
    encoders: Mapping[str, MTEBEncoder], task: Any, folder: Path, batch_size: int = 16, progress: bool = False
) -> list[EvaluationResult]:
    """Runs a task with the encoder of each input, writes mteb's own results to a folder, and returns one per split."""
    mteb = _import_mteb()
    name, score = task.metadata.name, task.metadata.main_score
    settings: Any = {"cache": None, "co2_tracker": False, "public_only": False, "show_progress_bar": False}
    settings["encode_kwargs"] = {"batch_size": batch_size, "show_progress_bar": progress}
    found = {}
    for inputs, encoder in encoders.items():
        [found[inputs]] = mteb.evaluate(encoder, task, **settings).task_results
        folder.mkdir(parents=True, exist_ok=True)
        found[inputs].to_disk(folder / f"{name}-{inputs}.json")
    protocol = {"clips_per_video": encoder.settings["num_clips"], **sampling_facts(encoder.processor), "crop": "center"}
    protocol |= {"mteb_version": mteb.__version__, "dataset_revision": task.metadata.revision}
    return [
        EvaluationResult("mteb", metrics, dict(protocol), primary=score, dataset=name, split=split)
        for split in task.eval_splits
        for metrics in [{inputs: {score: float(one.get_score(splits=[split]))} for inputs, one in found.items()}]
    ]


def _import_mteb() -> Any:
    try:
        import mteb
    except ImportError as error:
        raise ImportError(f'mteb is not installed ({error}): pip install "vididi-hf[mteb]", Python 3.11+') from error
    return mteb

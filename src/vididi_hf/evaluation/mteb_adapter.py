"""MVEB, the video tasks of the benchmark library mteb: its encoder interface, and its scores as our reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch.nn.functional as F
from numpy.typing import NDArray

from vididi_hf.evaluation.checks import check_finite
from vididi_hf.evaluation.features import extract_features
from vididi_hf.evaluation.inputs import INPUTS, sampling_facts
from vididi_hf.evaluation.results import EvaluationResult
from vididi_hf.files import printable
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.options import suggestion
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

BENCHMARK = "MVEB(video)"
"""The tasks of MVEB that need neither text nor sound."""
_SHOWN = 3


class MTEBEncoder:
    """An encoder as mteb wants it (its `EncoderProtocol`): `mteb.evaluate(MTEBEncoder(model, processor), tasks)`.

    The embeddings are those of `vididi embed`: the processor samples the clips, features are averaged over them, and a
    vector has unit length.

    Source: MVEB (Massive Video Embedding Benchmark) of https://github.com/embeddings-benchmark/mteb.

    Args:
        model: The encoder, on its device.
        processor: Defines length, interval and size of the clips.
        inputs: What the encoder sees: `"frames"`, `"derivative"` or `"both"`.
        num_clips: Clips per video, whose features are averaged.
        num_workers: Processes that decode videos.
        name: The name of the model in mteb's messages and cache.

    Raises:
        ImportError: If mteb is not installed.
    """

    def __init__(
        self,
        model: ViDiDiModel,
        processor: ViDiDiVideoProcessor,
        *,
        inputs: str = "frames",
        num_clips: int = 10,
        num_workers: int = 0,
        name: str = "vididi",
    ):
        _import_mteb()
        from mteb.models.model_meta import ModelMeta, ScoringFunction
        from mteb.similarity_functions import cos_sim, pairwise_cos_sim

        self.model, self.processor, self.orders = model, processor, INPUTS[inputs]
        self.num_clips, self.num_workers = num_clips, num_workers
        self.similarity, self.similarity_pairwise = cos_sim, pairwise_cos_sim
        facts = {
            "name": name,
            "revision": uuid4().hex,  # a fixed one would let mteb's cache return the scores of other weights
            "modalities": ["video"],
            "similarity_fn_name": ScoringFunction.COSINE,
            "embed_dim": model.config.hidden_size * len(self.orders),
            "n_parameters": model.num_parameters(),
            "framework": ["PyTorch"],
        }
        self.mteb_model_meta = ModelMeta.create_empty(facts)

    def encode(self, inputs: Any, **kwargs: Any) -> NDArray[Any]:
        """Embeds the column `video` of a loader's data set.

        Args:
            inputs: mteb's `DataLoader`. Its data set is read directly, because clips are sampled while decoding.
            **kwargs: mteb's `batch_size` and `show_progress_bar`. The names of task, split and subset do not matter.

        Returns:
            float32 (videos, orders · hidden_size), rows in the order of the data set.

        Raises:
            ValueError: If a video cannot be decoded, because mteb needs a row for each, or a feature is not finite.
        """
        rows = inputs.dataset
        found = extract_features(
            self.model,
            self.processor,
            rows,
            orders=self.orders,
            num_clips=self.num_clips,
            batch_size=kwargs.get("batch_size", 16),
            num_workers=self.num_workers,
            progress=kwargs.get("show_progress_bar", False),
        )
        if found.broken:
            examples = "; ".join(f"{source}: {reason}" for source, reason in list(found.broken.items())[:_SHOWN])
            raise ValueError(
                f"{len(found.broken)} of {len(rows)} videos cannot be decoded, and mteb leaves none out: {examples}"
            )
        vectors = F.normalize(found.combined(self.orders), dim=-1)
        check_finite(vectors, found.rows, rows)
        return vectors.numpy()


def find_tasks(names: Sequence[str]) -> list[Any]:
    """Returns mteb's tasks of these names. The name of a benchmark, such as `MVEB(video)`, stands for all its tasks.

    Raises:
        ImportError: If mteb is not installed.
        ValueError: If mteb has no task of a name, or a task needs more than video.
    """
    mteb = _import_mteb()
    tasks: list[Any] = []
    for name in names:
        try:
            tasks += [mteb.get_task(name)]
        except KeyError:
            try:
                tasks += mteb.get_benchmark(name).tasks
            except KeyError:
                known = mteb.get_tasks(modalities=["video"], exclusive_modality_filter=True, exclude_beta=False)
                hint = suggestion(name, [task.metadata.name for task in known]) or f": {BENCHMARK!r} takes all of MVEB"
                raise ValueError(f"mteb has no task {name!r}{hint}") from None
    for task in tasks:
        if (needed := task.metadata.modalities) != ["video"]:
            more = f"needs {' and '.join(needed)}, and these encoders see only video"
            raise ValueError(f"the task {task.metadata.name} {more}: {BENCHMARK!r} has tasks that they can do")
    return tasks


def evaluate_task(
    encoders: dict[str, MTEBEncoder], task: Any, folder: Path, batch_size: int = 16, progress: bool = False
) -> list[EvaluationResult]:
    """Runs a task with the encoder of each input and returns a result for each split, with the main score.

    All scores of mteb are written to `folder`, as mteb writes them.

    Raises:
        ValueError: If the data set of the task is not public.
    """
    mteb = _import_mteb()
    folder.mkdir(parents=True, exist_ok=True)
    settings: Any = {"batch_size": batch_size, "show_progress_bar": progress}
    found = {}
    for inputs, encoder in encoders.items():
        fixed: Any = {"cache": None, "co2_tracker": False, "show_progress_bar": False}
        done = mteb.evaluate(encoder, task, encode_kwargs=dict(settings), **fixed)
        if done.exceptions:
            raise ValueError(f"{task.metadata.name} cannot be run: {printable(done.exceptions[0].exception)}")
        [found[inputs]] = done.task_results
        found[inputs].to_disk(folder / f"{task.metadata.name}-{inputs}.json")
    first, encoder = next(iter(found)), next(iter(encoders.values()))
    protocol = {
        "clips_per_video": encoder.num_clips,
        **sampling_facts(encoder.processor),
        "crop": "center",
        "mteb_version": mteb.__version__,
        "task_type": task.metadata.type,
        "dataset_revision": task.metadata.revision,
    }
    score = task.metadata.main_score
    return [
        EvaluationResult(
            "mteb",
            {inputs: {score: float(one.get_score(splits=[split]))} for inputs, one in found.items()},
            dict(protocol),
            primary=score,
            dataset=task.metadata.name,
            split=split,
        )
        for split in found[first].scores
    ]


def _import_mteb() -> Any:
    try:
        import mteb
    except ImportError as error:
        hint = 'pip install "vididi-hf[mteb]", with Python 3.11 or later'
        raise ImportError(f"mteb is not installed ({error}): {hint}") from error
    return mteb

"""The same run with and without time-differentiation, side by side: what did ViDiDi learn that the baseline did not?"""

from __future__ import annotations

import json
import multiprocessing
import statistics
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from vididi_hf.evaluation.features import extract_features
from vididi_hf.evaluation.results import METRICS_JSON, dataset_name, read_report, report_of, write_report
from vididi_hf.evaluation.retrieval import RetrievalEvaluator, nearest_neighbours
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.pretraining.loop import pretrain, save_untrained, splits_of
from vididi_hf.pretraining.monitors import read_metrics
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

ARMS = {"untrained": "baseline", "baseline": "baseline", "ViDiDi": "paper"}
"""The arms of the comparison and the schedules that they train with; the first is not trained at all."""

NEIGHBOURS_JSON = "neighbours.json"
NEIGHBOURS = 5


@dataclass(frozen=True)
class Arm:
    """One encoder of the comparison.

    Attributes:
        name: A key of `ARMS`.
        recipe: How it is trained; its `output_dir` and `seed` are the arm's own.
    """

    name: str
    recipe: PretrainingRecipe

    @property
    def folder(self) -> Path:
        """Where the encoder and its results lie."""
        return Path(self.recipe.output_dir)


def plan(recipe: PretrainingRecipe, seeds: Sequence[int], output_dir: str | Path) -> list[Arm]:
    """Lists the encoders to make: every arm for every seed, all else equal.

    Args:
        recipe: What the arms share.
        seeds: Their seeds.
        output_dir: Each arm gets a folder `<arm>-seed<seed>` in it.
    """
    return [
        Arm(
            name,
            replace(
                recipe,
                schedule=schedule,
                seed=seed,
                output_dir=str(Path(output_dir) / f"{name.lower()}-seed{seed}"),
                resume=True,
                progress=False,
            ),
        )
        for seed in seeds
        for name, schedule in ARMS.items()
    ]


def run_arm(arm: Arm, num_clips: int, threads: int) -> dict[str, Any]:
    """Trains and evaluates one encoder, continuing or skipping what an earlier call has done.

    Args:
        arm: The encoder.
        num_clips: Clips per video in the evaluation.
        threads: Threads of this process.

    Returns:
        `arm`, `seed`, `metrics` by input (where the videos have labels; `metrics.json` in the arm's folder holds them
        with their protocol), and by row of the queries the rows of their `neighbours` in the gallery.
    """
    torch.set_num_threads(threads)
    neighbours_file = arm.folder / NEIGHBOURS_JSON  # written last: an arm that has one is done
    if not neighbours_file.exists():
        (save_untrained if arm.name == "untrained" else pretrain)(arm.recipe)
        neighbours_file.write_text(json.dumps(evaluate_arm(arm, num_clips)))
    result = {"arm": arm.name, "seed": arm.recipe.seed, "neighbours": json.loads(neighbours_file.read_text())}
    if (arm.folder / METRICS_JSON).exists():
        result["metrics"] = read_report(arm.folder)["metrics"]
    return result


def evaluate_arm(arm: Arm, num_clips: int) -> dict[int, list[int]]:
    """Evaluates a finished encoder, and writes `metrics.json` where the videos have labels.

    Returns:
        By row of the queries the rows of their nearest neighbours in the gallery, both frames.
    """
    model = ViDiDiModel.from_pretrained(arm.folder)
    model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-arg]
    processor = ViDiDiVideoProcessor.from_pretrained(arm.folder)
    splits = splits_of(arm.recipe)
    if "label" in splits.gallery.column_names:
        evaluator = RetrievalEvaluator(
            splits.gallery,
            splits.queries,
            processor,
            num_clips=num_clips,
            num_workers=1,
            leave_out=splits.leave_out,
            dataset=dataset_name(arm.recipe.dataset),
            split=arm.recipe.split if splits.leave_out else "test",
        )
        found = evaluator(model)
        facts = {"random_init": arm.name == "untrained", "seed": arm.recipe.seed, "source": arm.recipe.dataset}
        write_report(arm.folder / METRICS_JSON, report_of(found, str(arm.folder), **facts))
        rows, neighbours = found.queries.rows, found.neighbours["frames"]
    else:
        features = extract_features(model, processor, splits.gallery, num_clips=num_clips, num_workers=1)
        rows, own = features.rows, torch.arange(len(features.rows))
        vectors = features.by_order[0]
        nearest = nearest_neighbours(vectors, vectors, NEIGHBOURS, query_groups=own, gallery_groups=own)
        neighbours = rows[nearest]
    return dict(zip(rows.tolist(), neighbours[:, :NEIGHBOURS].tolist()))


def run_arms(arms: Sequence[Arm], num_clips: int, processes: int) -> list[dict[str, Any]]:
    """Runs the arms in parallel processes, with a progress bar for each.

    On a few cores, several processes of one thread each train small networks faster than one process of several
    threads.

    Args:
        arms: The encoders.
        num_clips: Clips per video in the evaluation.
        processes: How many run at a time; they share the cores.

    Returns:
        The results, in the order of `arms`.

    Raises:
        Exception: Whatever an arm raised; the others are still finished and can be reused.
    """
    splits_of(arms[0].recipe)  # makes or downloads the data set, before several processes want it
    threads = max(1, torch.get_num_threads() // processes)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = [pool.submit(run_arm, arm, num_clips, threads) for arm in arms]
        _watch(arms, futures)
    return [future.result() for future in futures]


def _watch(arms: Sequence[Arm], futures: Sequence[Future]) -> None:
    """Shows the progress of the trained arms until all are done."""
    trained = [arm for arm in arms if arm.name != "untrained"]
    bars = [
        tqdm(total=arm.recipe.epochs, desc=f"{arm.name:>8} seed {arm.recipe.seed}", unit="epoch", position=position)
        for position, arm in enumerate(trained)
    ]
    pending = set(futures)
    while pending:
        pending = wait(pending, timeout=1.0).not_done
        for arm, bar in zip(trained, bars):
            rows = read_metrics(arm.folder)
            if rows and rows[-1]["epoch"] > bar.n:
                latest = {key: rows[-1][key] for key in ("loss", "videos_per_second")}
                recalls = [row["R@1"] for row in rows if "R@1" in row]
                bar.set_postfix({**latest, **({"R@1": recalls[-1]} if recalls else {})}, refresh=False)
                bar.update(rows[-1]["epoch"] - bar.n)
    for bar in bars:
        bar.close()


def summarise(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Averages the results of each arm over its seeds.

    Returns:
        One row for each arm and input, none for videos without labels: `arm`, `input`, `seeds`, and for each metric its
        `mean` and sample `deviation` (None for a single seed).
    """
    rows = []
    results = [result for result in results if "metrics" in result]
    for arm in dict.fromkeys(result["arm"] for result in results):
        own = [result for result in results if result["arm"] == arm]
        for name in own[0]["metrics"]:
            metrics = {}
            for metric in own[0]["metrics"][name]:
                values = [result["metrics"][name][metric] for result in own]
                deviation = statistics.stdev(values) if len(values) > 1 else None
                metrics[metric] = {"mean": statistics.fmean(values), "deviation": deviation}
            rows.append({"arm": arm, "input": name, "seeds": len(own), "metrics": metrics})
    return rows


def format_table(rows: Sequence[dict[str, Any]], metrics: Sequence[str] = ("R@1", "R@5", "20-NN")) -> str:
    """Formats what `summarise` returns as a Markdown table, in per cent."""
    lines = ["| encoder | shown | " + " | ".join(metrics) + " |", "| --- | --- |" + " --- |" * len(metrics)]
    for row in rows:
        cells = []
        for metric in metrics:
            mean, deviation = (row["metrics"][metric][key] for key in ("mean", "deviation"))
            cells.append(f"{100 * mean:.1f}" + (f" ± {100 * deviation:.1f}" if deviation is not None else ""))
        lines.append(f"| {row['arm']} | {row['input']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)

#!/usr/bin/env python
"""Times exact search: ours, and FAISS's flat index of inner products.

python benchmarks/search.py
python benchmarks/search.py --numbers 1000000 --batches 1 16 128 --rounds 9 --output search.json

Both search the same random unit vectors for the same queries, in turn, in several rounds of one process (wall time).
Seconds are medians over rounds. Ratios are medians of the ratios within a round. Needs faiss-cpu and threadpoolctl.
"""

import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from machine import processor_name
from vididi_hf.evaluation.results import write_report
from vididi_hf.options import Options, errors_in_one_line, option, parse_options
from vididi_hf.search.search import search_exact

OURS, FAISS = "ours", "FAISS flat"
Vectors = NDArray[np.float32]
Search = Callable[[Vectors], tuple[Vectors, NDArray[np.int64]]]


@dataclass(kw_only=True)
class SearchBenchmarkOptions(Options):
    """The options of the benchmark."""

    numbers: list[int] = option(default_factory=lambda: [100_000, 1_000_000], help="Numbers of vectors to search.")
    dimensions: int = option(default=512, at_least=1, help="Dimensions of a vector.")
    batches: list[int] = option(default_factory=lambda: [1, 16, 128], help="Numbers of queries.")
    threads: list[int] = option(default_factory=lambda: [1, 2], help="Numbers of threads.")
    k: int = option(default=10, at_least=1, help="Neighbors per query.")
    rounds: int = option(default=5, at_least=1, help="Rounds of measurements.")
    output: str | None = option(default=None, help="JSON file of all numbers.")


def unit_vectors(number: int, dimensions: int, seed: int) -> Vectors:
    """Draws random unit vectors in parts, without a second copy."""
    generator = np.random.default_rng(seed)
    vectors = np.empty((number, dimensions), np.float32)
    for part in np.array_split(vectors, max(1, number // 10_000)):
        generator.standard_normal(out=part, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def measure(searches: dict[str, Search], queries: Vectors, rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of each method in each round, after a warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in searches}
    for number in range(rounds + 1):
        for name, search in searches.items():
            begin = time.perf_counter()
            search(queries)
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def compare(searches: dict[str, Search], queries: Vectors) -> tuple[float, float]:
    """Returns the memory of ours beyond the vectors, in MiB, and the share of FAISS's neighbors that it also finds."""
    tracemalloc.start()
    _, ours = searches[OURS](queries)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    _, theirs = searches[FAISS](queries)
    common = sum(len(np.intersect1d(mine, other)) for mine, other in zip(ours, theirs, strict=True))
    return peak / 2**20, common / theirs.size


def main(command_line: Sequence[str] | None = None) -> None:
    """Measures and prints a table."""
    arguments = parse_options(SearchBenchmarkOptions, command_line, description=__doc__)
    rows: list[dict[str, Any]] = []
    bar = tqdm(total=len(arguments.numbers) * len(arguments.threads) * len(arguments.batches), unit="search")
    with errors_in_one_line("search.py"), bar:
        for number in arguments.numbers:
            vectors = unit_vectors(number, arguments.dimensions, seed=0)
            index = faiss.IndexFlatIP(arguments.dimensions)
            index.add(vectors)
            searches: dict[str, Search] = {
                OURS: lambda queries, vectors=vectors: search_exact(queries, vectors, arguments.k),  # type: ignore[misc]
                FAISS: lambda queries, index=index: index.search(queries, arguments.k),  # type: ignore[misc]
            }
            for threads in arguments.threads:
                with threadpool_limits(threads):
                    for batch in arguments.batches:
                        queries = unit_vectors(batch, arguments.dimensions, seed=1)
                        seconds = measure(searches, queries, arguments.rounds)
                        ratio = statistics.median(a / b for a, b in zip(seconds[OURS], seconds[FAISS], strict=True))
                        memory, common = compare(searches, queries)
                        medians = {name: statistics.median(values) for name, values in seconds.items()}
                        facts = {"vectors": number, "threads": threads, "queries": batch, "memory_mib": memory}
                        rows.append({**facts, "seconds": medians, "ratio": ratio, "found_in_common": common})
                        bar.update()
    versions = {"numpy": np.__version__, "faiss": faiss.__version__, "python": platform.python_version()}
    print(f"\n{arguments.dimensions} dimensions, k = {arguments.k}, {arguments.rounds} rounds, {processor_name()}")
    print(", ".join(f"{name} {version}" for name, version in versions.items()) + f", {time.strftime('%Y-%m-%d')}\n")
    print("| vectors | threads | queries | ours, s | FAISS flat, s | ours / FAISS | memory of ours | found in common |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        first = f"| {row['vectors']:,} | {row['threads']} | {row['queries']} |"
        times = " | ".join(f"{row['seconds'][name]:.4f}" for name in (OURS, FAISS))
        print(f"{first} {times} | {row['ratio']:.2f} | {row['memory_mib']:.1f} MiB | {row['found_in_common']:.2%} |")
    if arguments.output:
        facts = {"cpu": processor_name(), "versions": versions, "date": time.strftime("%Y-%m-%d")}
        write_report(arguments.output, {**vars(arguments), **facts, "results": rows})


if __name__ == "__main__":
    main()

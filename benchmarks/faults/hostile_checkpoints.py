#!/usr/bin/env python
"""Reads more than 100 hostile or damaged folders and files, and counts how the commands reject them.

python benchmarks/faults/hostile_checkpoints.py --output hostile.json
"""

import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vididi_hf.cli import main as vididi
from vididi_hf.data.motion import generate_motion
from vididi_hf.options import Options, option, parse_options

MEMORY = 6 * 2**30
SECONDS = 2.0
STEP = "run/checkpoints/step-00000001"
# fmt: off
TINY = [
    *("--hidden_sizes", "4", "4", "8", "8", "--depths", "1", "1", "1", "1", "--projector_sizes", "8", "8"),
    *("--num_frames", "4", "--frame_stride", "1", "--image_size", "32", "--batch_size", "4", "--num_workers", "0"),
    *("--no_progress", "--learning_rate", "0.1", "--epochs"),
]
QUIET = ["--num_workers", "0", "--no_progress"]
# Reader -> its command.
COMMANDS: dict[str, list[str]] = {
    "embed": [
        "embed",
        "videos",
        "--model",
        "run",
        "--output_dir",
        "out",
        "--num_clips",
        "1",
        "--num_workers",
        "0",
        "--no_progress",
    ],
    "publish": ["publish", "run", "--repo", "a/b", "--dry_run", "out"],
    "resume": ["pretrain", "videos", "--output_dir", "run", "--resume", *TINY, "2"],
    "search": ["search", "--embeddings", "index", "--query", "videos/0.mp4", "--model", "run", "--output_dir", "out"],
    "prepare": [
        "prepare",
        "videos",
        "--output_dir",
        "prepared",
        "--num_workers",
        "0",
        "--no_progress",
        "--videos_per_shard",
        "2",
    ],
    "convert": ["convert", "weights.pth", "out"],
}
CONFIG, PROCESSOR, WEIGHTS = "run/config.json", "run/video_preprocessor_config.json", "run/model.safetensors"
FILES, PROGRESS, OPTIMIZER = (
    f"{STEP}/training_state/{name}" for name in ("files.json", "progress.json", "optimizer.pt")
)
INDEX, SHARD = "index/embeddings.json", "index/data/train-00000-of-00001.parquet"
MANY, FOUR = 10**9, [100_000, 1, 1, 1]


class Malicious:
    """Leaves a trace if it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def _recreate(path: Path, make: Callable[[Path], Any]) -> None:
    path.unlink()
    make(path)


def _header(size: int, header: bytes = b"{}") -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(size.to_bytes(8, "little") + header)


_ENTRY = b'{"a":{"dtype":"F32","shape":[%b],"data_offsets":[0,%b]}}'
DAMAGE: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "text": lambda path: path.write_text("This is text.\n" * 9, encoding="utf-8"),
    "latin-1": lambda path: path.write_bytes(b'{"\xe9": 1}'),
    "list": lambda path: path.write_text("[1]", encoding="utf-8"),
    "deep": lambda path: path.write_text("[" * 100_000 + "]" * 100_000, encoding="utf-8"),
    "fifo": lambda path: _recreate(path, os.mkfifo),
    "device": lambda path: _recreate(path, lambda new: new.symlink_to("/dev/zero")),
    "folder": lambda path: _recreate(path, Path.mkdir),
    "dangling": lambda path: _recreate(path, lambda new: new.symlink_to("nothing")),
    "pickle": lambda path: torch.save({"optimizer": Malicious(), "model": Malicious()}, path),
    "huge": lambda path: path.write_bytes(b'{"a": "' + b" " * 300_000_000 + b'"}'),
    "header": _header(2**62),
    "offsets": _header(60, _ENTRY % (b"4", b"16")),
    "shape": _header(70, (_ENTRY % (b"1000000000000", b"4")).ljust(70)),
    "expanded": lambda path: torch.save({"stem.0.weight": torch.zeros(1).expand(10**10)}, path),
    "numbers": lambda path: torch.save({"optimizer": 3, "reporter": "x", "model": 4}, path),
    "no parts": lambda path: torch.save({}, path),
    "no optimizer": lambda path: torch.save({"optimizer": {"state": {}, "param_groups": []}, "reporter": {}}, path),
}
_KINDS = ("empty", "truncated", "text", "latin-1", "list", "deep", "fifo", "device", "folder", "dangling", "huge")
_BINARY = ("empty", "truncated", "text", "fifo", "device", "folder", "pickle")
_TENSORS = (*_BINARY, "missing", "header", "offsets", "shape")
# Reader, file and what becomes of it: names of DAMAGE, or keys of JSON with their new values.
CASES: list[tuple[str, str, Any]] = [
    *[("embed", file, kind) for file in (CONFIG, PROCESSOR) for kind in _KINDS],
    *[("resume", file, kind) for file in (FILES, PROGRESS, f"{STEP}/recipe.json") for kind in _KINDS],
    *[("search", INDEX, kind) for kind in _KINDS],
    *[("embed", WEIGHTS, kind) for kind in _TENSORS],
    *[("resume", f"{STEP}/training_state/objective.safetensors", kind) for kind in ("shape", "header", "text")],
    *[("resume", OPTIMIZER, kind) for kind in (*_BINARY, "numbers", "no parts", "no optimizer")],
    *[("resume", "run/metrics.jsonl", kind) for kind in ("text", "list", "fifo", "device", "folder")],
    *[("search", SHARD, kind) for kind in _BINARY],
    *[("prepare", "prepared/data/train-00000-of-00002.parquet", kind) for kind in _BINARY],
    *[("convert", "weights.pth", kind) for kind in (*_BINARY, "list", "missing", "expanded", "numbers", "no parts")],
    *[("publish", f"run/{name}", kind) for name in ("recipe.json", "metrics.jsonl") for kind in _KINDS[2:9]],
    *[("publish", CONFIG, {"architectures": value}) for value in (5, [5], ["BertModel"], {"a": 1}, [["x"]])],
    *[("embed", CONFIG, {"depths": value}) for value in (FOUR, [MANY] * 4, "1111", [[1]] * 4, [1.5] * 4, [True] * 4)],
    *[("embed", CONFIG, {"hidden_sizes": value}) for value in ([MANY] * 4, [4, 4, 8, MANY], {"a": 1}, ["8"] * 4)],
    *[("embed", CONFIG, {name: value}) for name in ("num_frames", "image_size") for value in (MANY, 1e9, "8")],
    *[("embed", CONFIG, {name: value}) for name in ("num_channels", "num_labels") for value in (MANY, 1e9, "8")],
    *[("embed", CONFIG, {"num_labels": value}) for value in (10**8, -1, "x", [3])],
    *[("embed", CONFIG, {"id2label": value}) for value in ({"a": "b"}, ["a"], "ab", 3)],
    *[("embed", CONFIG, {"derivative_orders": value}) for value in ([MANY], list(range(10**5)), "012", 0)],
    *[("embed", CONFIG, {"dtype": value}) for value in ("float1000", "load", 16)],
    *[("embed", CONFIG, {"model_type": value}) for value in (5, [], "bert")],
    *[("embed", CONFIG, {"batch_norm": 3}), ("embed", CONFIG, {"classifier_dropout": float("nan")})],
    *[("embed", CONFIG, {"auto_map": {"AutoModel": "evil.Evil"}}), ("embed", CONFIG, {"backbone": ["../x"]})],
    *[("embed", PROCESSOR, {name: value}) for name in ("num_frames", "frame_stride") for value in (MANY, 1e9, "8")],
    *[("embed", PROCESSOR, {"size": value}) for value in ({"shortest_edge": MANY}, {"height": -1, "width": 1}, "x")],
    *[("embed", PROCESSOR, {"crop_size": value}) for value in ({"height": MANY, "width": MANY}, {"a": 1}, [1])],
    *[("embed", PROCESSOR, {name: "x"}) for name in ("image_mean", "rescale_factor", "resample", "do_resize")],
    *[("embed", PROCESSOR, {"image_std": value}) for value in ([0, 0, 0], [1], ["a", "b", "c"])],
    *[("embed", PROCESSOR, {"derivative_orders": value}) for value in ([MANY], ["a"])],
    *[("resume", FILES, {name: [1, "0"]}) for name in ("/dev/zero", "../../../videos/0.mp4", "training_state/fifo")],
    *[("resume", FILES, {"config.json": value}) for value in (None, 3, ["a", "b"], {"a": 1})],
    *[("resume", PROGRESS, {"total_steps": value}) for value in ("x", -1, 1e99, 10**30, None, 7)],
    *[("resume", PROGRESS, {"epoch": value}) for value in ("x", -1, MANY, [1])],
    *[("resume", PROGRESS, {name: value}) for name in ("step", "steps_per_epoch") for value in (-1, "x", MANY)],
    *[("resume", PROGRESS, {"broken": value}) for value in (5, ["a"], {"a": 1})],
    *[("resume", PROGRESS, {"best_score": "x"}), ("resume", PROGRESS, {"best_step": [1]})],
    *[("resume", f"{STEP}/recipe.json", {"epochs": "x"}), ("resume", f"{STEP}/recipe.json", {"objective": [1]})],
    *[("search", INDEX, {"embedded": value}) for value in ("5", MANY, 0, None)],
    *[("search", INDEX, {"dimensions": value}) for value in (MANY, 0, -8, "x", 5)],
    *[("search", INDEX, {"shards": [{"file": file, "rows": 4}]}) for file in ("../../secret", "/dev/zero", 5, "no")],
    *[("search", INDEX, {"shards": value}) for value in ([], 5, [5], [{"rows": 4}], {"a": 1})],
    *[("search", INDEX, {"protocol": value}) for value in (5, {}, [], {"encoder": 1}, "encoder")],
    *[("search", INDEX, {"protocol.num_clips": MANY}), ("search", INDEX, {"protocol.inputs": "x"})],
    *[("search", INDEX, {"protocol.num_frames": MANY}), ("search", INDEX, {"protocol.crop_size": "x"})],
    *[("publish", "run/recipe.json", {name: value}) for name in ("objective", "dataset") for value in ([1], {})],
]
# fmt: on


@dataclass(kw_only=True)
class HostileOptions(Options):
    """The options of the test."""

    patience: float = option(default=10.0, at_least=1, help="Seconds until a command counts as hanging.")
    output: str = option(default="hostile.json", help="JSON file of the results.")


def build(folder: Path) -> None:
    """Writes what the cases damage: videos, a run with a checkpoint, embeddings, prepared shards and weights."""
    os.chdir(folder)
    Path("videos").mkdir()
    for number, path in enumerate(
        sorted(generate_motion(folder / "motion", 8, 8, progress=False).parent.rglob("*.mp4"))[:4]
    ):
        shutil.copyfile(path, f"videos/{number}.mp4")
    vididi(["pretrain", "videos", "--output_dir", "run", *TINY, "1"])
    vididi([*COMMANDS["embed"], "--output_dir", "index"])
    vididi(COMMANDS["prepare"])
    vididi([*COMMANDS["search"], "--embeddings", "index"])  # also imports what the cases need
    vididi([*COMMANDS["publish"], "--dry_run", "published"])
    shutil.rmtree("published")
    torch.save({"stem.0.weight": torch.zeros(2)}, "weights.pth")


def damage(folder: Path, file: str, change: Any) -> None:
    """Damages a file, and updates the hashes of its checkpoint as an attacker would."""
    path = folder / file
    if isinstance(change, str):
        DAMAGE[change](path)
    else:
        content = json.loads(path.read_text(encoding="utf-8"))
        for name, value in change.items():
            owner, _, key = name.rpartition(".")
            (content[owner] if owner and owner in content else content)[key if owner in content else name] = value
        path.write_text(json.dumps(content), encoding="utf-8")
    files = folder / FILES
    inner = path.relative_to(folder / STEP).as_posix() if file.startswith(STEP) else ""
    if inner and path != files and path.is_file():
        data = path.read_bytes()
        hashes = json.loads(files.read_text(encoding="utf-8"))
        hashes[inner] = [len(data), hashlib.sha256(data).hexdigest()]
        files.write_text(json.dumps(hashes), encoding="utf-8")
    if file == FILES:
        os.mkfifo(folder / STEP / "training_state" / "fifo")


def attempt(folder: Path, reader: str, patience: float) -> tuple[str, float, str]:
    """Runs the command of a reader in a process of its own: what happened, its CPU seconds, and the last line."""
    log, start = folder / "log", time.monotonic()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.chdir(folder)
            for stream in (1, 2):
                os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            vididi(COMMANDS[reader])
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    code = None
    while code is None and time.monotonic() - start < patience:
        ended, status, usage = os.wait4(process, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if ended else None
        time.sleep(0.01)
    if code is None:
        os.kill(process, signal.SIGKILL)
        _, _, usage = os.wait4(process, 0)
    seconds = usage.ru_utime + usage.ru_stime
    text = log.read_text(encoding="utf-8", errors="replace")
    last = (text.splitlines() or [""])[-1]
    if code is None:
        return "hang", seconds, last
    if (folder / "executed").exists():
        return "EXECUTED", seconds, last
    if code == 0:
        return "accepted", seconds, last
    one_line = code == 2 and last.startswith("vididi ") and "Traceback" not in text
    return "one line" if one_line else "killed" if code < 0 else "traceback", seconds, last


def run_cases(folder: Path, cases: list[tuple[str, str, Any]], patience: float) -> Iterator[dict[str, Any]]:
    """Yields what happened in each case."""
    build(folder / "whole")
    for number, (reader, file, change) in enumerate(cases):
        copy = shutil.copytree(folder / "whole", folder / f"case-{number}")
        damage(copy, file, change)
        result, seconds, line = attempt(copy, reader, patience)
        shutil.rmtree(copy)
        yield {"case": [reader, file, repr(change)[:80]], "result": result, "seconds": round(seconds, 2), "line": line}


def main() -> None:
    """Runs all cases and writes what happened."""
    options = parse_options(HostileOptions, description=__doc__)
    output = Path(options.output).resolve()  # the working directory changes
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "whole").mkdir()
        results = []
        for result in run_cases(Path(temporary), CASES, options.patience):
            results.append(result)
            if result["result"] != "one line" or result["seconds"] > SECONDS:
                print(
                    f"{result['result']:<14}{result['seconds']:6.2f}  {result['case']}  {result['line'][:160]}",
                    flush=True,
                )
    output.write_text(json.dumps(results, indent=1), encoding="utf-8")
    slow = sum(result["seconds"] > SECONDS for result in results)
    print(
        f"{len(results)} cases: {dict(Counter(result['result'] for result in results))}; {slow} took over {SECONDS:g} s"
    )


if __name__ == "__main__":
    main()

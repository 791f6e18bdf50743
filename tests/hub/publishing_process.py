"""What users of `vididi publish` do, in an interpreter of its own. Argument 1 is JSON, see `test_round_trip.py`."""

import json
import os
import sys
from pathlib import Path

from huggingface_hub import HfApi

from vididi_hf import ViDiDiModel
from vididi_hf.cli import run_command

job = json.loads(sys.argv[1])
# Once in a process that is killed while it sends; then again.
child = os.fork()
if child == 0:
    Path(job["pid_file"]).write_text(str(os.getpid()))
    run_command("publish", [job["run"], "--repo", job["encoder"]])
    os._exit(0)
_, status = os.waitpid(child, 0)
assert os.WIFSIGNALED(status), status
print("--- again", flush=True)
run_command("publish", [job["run"], "--repo", job["encoder"]])
HfApi().create_tag(job["encoder"], tag="v1")
print("--- a new version", flush=True)
run_command("publish", [job["checkpoint"], "--repo", job["encoder"], "--message", "Another seed"])
print("--- a classifier", flush=True)
run_command("publish", [job["classifier_run"], "--repo", job["classifier"], "--public"])
print("--- one line", flush=True)
ViDiDiModel.from_pretrained(job["run"]).push_to_hub(job["one_line"], private=True)

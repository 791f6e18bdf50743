"""Loads what was published, in an interpreter with a fresh cache; argument 1 is JSON, see `test_round_trip.py`.

With `"alone"` it may not import `vididi_hf` and has to trust the code of the repositories.
"""

import importlib.abc
import json
import re
import sys
from pathlib import Path

job = json.loads(sys.argv[1])


class NotInstalled(importlib.abc.MetaPathFinder):
    """Makes the package what it is for those who have not installed it."""

    def find_spec(self, fullname, path, target=None):
        if fullname.split(".")[0] == "vididi_hf":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


if job["alone"]:
    sys.meta_path.insert(0, NotInstalled())
else:
    import vididi_hf

# ruff: noqa: E402
import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification, AutoVideoProcessor, pipeline

trust = {"trust_remote_code": True} if job["alone"] else {}
given = load_file(job["inputs"])
found, facts = {}, {}


def features(model):
    with torch.inference_mode():
        return model.eval()(given["clip"]).pooler_output.clone()


config = AutoConfig.from_pretrained(job["encoder"], **trust)
processor = AutoVideoProcessor.from_pretrained(job["encoder"], **trust)
encoder = AutoModel.from_pretrained(job["encoder"], **trust)
classifier = AutoModelForVideoClassification.from_pretrained(job["classifier"], **trust)
found["pixels"] = processor(given["video"], derivative_orders=[1])["pixel_values_order_1"]
found["main"] = features(encoder)
for name, revision in job["revisions"].items():
    found[name] = features(AutoModel.from_pretrained(job["encoder"], revision=revision, **trust))
with torch.inference_mode():
    found["logits"] = classifier.eval()(given["clip"]).logits.clone()
facts["labels"] = classifier.config.id2label
facts["classes"] = [type(thing).__name__ for thing in (config, processor, encoder, classifier)]
facts["modules"] = [type(thing).__module__ for thing in (config, processor, encoder, classifier)]
facts["pipeline"] = pipeline("video-classification", model=job["classifier"], **trust)(job["video"], top_k=1)[0]
if not job["alone"]:
    found["direct"] = features(vididi_hf.ViDiDiModel.from_pretrained(job["encoder"]))
    found["one_line"] = features(vididi_hf.ViDiDiModel.from_pretrained(job["one_line"]))

# The card's snippet for this kind of user, as it stands there.
for repo in (job["encoder"], job["classifier"]):
    card = Path(hf_hub_download(repo, "README.md")).read_text()
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    print(f"--- {repo}\n{blocks[job['alone']]}---", flush=True)
    exec(compile(blocks[job["alone"]], f"{repo}/README.md", "exec"), {})

facts["package_loaded"] = any(name.split(".")[0] == "vididi_hf" for name in sys.modules)
save_file({name: tensor.contiguous() for name, tensor in found.items()}, job["outputs"])
Path(job["facts"]).write_text(json.dumps(facts))

"""Loads what was published, in an interpreter with a fresh cache; argument 1 is JSON, see `test_round_trip.py`.

With `"alone"` it may not import `vididi_hf` and has to trust the code of the repositories. PyAV is missing, too.
"""

import importlib.abc
import importlib.util
import json
import re
import sys
from pathlib import Path

job = json.loads(sys.argv[1])


class NotInstalled(importlib.abc.MetaPathFinder):
    """Makes packages what they are for those who have not installed them."""

    names = ("av", "vididi_hf") if job["alone"] else ("av",)

    def find_spec(self, fullname, path, target=None):
        if fullname.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


sys.meta_path.insert(0, NotInstalled())
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in NotInstalled.names else find_spec(name, *rest)
if not job["alone"]:
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
found["one_line"] = features(AutoModel.from_pretrained(job["one_line"], **trust))
for name, revision in job["revisions"].items():
    found[name] = features(AutoModel.from_pretrained(job["encoder"], revision=revision, **trust))
with torch.inference_mode():
    found["logits"] = classifier.eval()(given["clip"]).logits.clone()
facts["labels"] = classifier.config.id2label
facts["classes"] = [type(thing).__name__ for thing in (config, processor, encoder, classifier)]
facts["modules"] = [type(thing).__module__ for thing in (config, processor, encoder, classifier)]
classify = pipeline("video-classification", model=job["classifier"], **trust)
facts["pipeline"] = classify(job["video"], top_k=1, num_clips=2)[0]
if not job["alone"]:
    found["direct"] = features(vididi_hf.ViDiDiModel.from_pretrained(job["encoder"]))

# The card's snippet for this kind of user, as it stands there.
for repo in (job["encoder"], job["classifier"]):
    card = Path(hf_hub_download(repo, "README.md")).read_text()
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    print(f"--- {repo}\n{blocks[job['alone']]}---", flush=True)
    exec(compile(blocks[job["alone"]], f"{repo}/README.md", "exec"), {})

facts["package_loaded"] = any(name.split(".")[0] == "vididi_hf" for name in sys.modules)
save_file({name: tensor.contiguous() for name, tensor in found.items()}, job["outputs"])
Path(job["facts"]).write_text(json.dumps(facts))

"""A detector of actions is published with its code and a card that says how boxes are given."""

import json
import re

import torch
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from vididi_hf import PublishOptions, ViDiDiConfig, ViDiDiForActionDetection, ViDiDiVideoProcessor
from vididi_hf.hub.publishing import prepare_repository


def test_code_card_and_weights(remote_code_cache, tmp_path, capsys):
    detector, out = tmp_path / "detector", tmp_path / "out"
    torch.manual_seed(3)
    sizes = {"hidden_sizes": (4, 4, 4, 4), "depths": (1, 1, 1, 1), "detection_stride": 8}
    config = ViDiDiConfig(**sizes, id2label={0: "sit", 1: "stand"}, problem_type="single_label_classification")
    ViDiDiForActionDetection(config).save_pretrained(detector)
    ViDiDiVideoProcessor(num_frames=4, frame_stride=2, size=36, crop_size=32).save_pretrained(detector)
    prepare_repository(PublishOptions(checkpoint=str(detector), repo="someone/detector"), out)
    assert (out / "detection_vididi.py").exists()
    clip, boxes = torch.randn(1, 4, 3, 32, 32), [torch.tensor([[0.1, 0.1, 0.7, 0.9]])]
    where = json.loads((out / "config.json").read_text())["auto_map"]["AutoModelForObjectDetection"]
    carried = get_class_from_dynamic_module(where, str(out))  # whether or not this package is installed
    assert carried is not ViDiDiForActionDetection
    remote = carried.from_pretrained(out).eval()
    original = ViDiDiForActionDetection.from_pretrained(detector).eval()
    assert torch.equal(remote(clip, boxes).logits, original(clip, boxes).logits)
    card = (out / "README.md").read_text()
    assert "You give each person as a box" in card
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block.replace("someone/detector", str(out)), "card", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.count("torch.Size([1, 2])") == 2
    assert "sit" in printed or "stand" in printed

"""What is saved is a repository: it loads by its own code, which is complete and refers to nothing but itself."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import Trainer, TrainingArguments
from transformers.dynamic_module_utils import get_class_from_dynamic_module

import vididi_hf
from vididi_hf import (
    ViDiDiConfig,
    ViDiDiForActionDetection,
    ViDiDiForPreTraining,
    ViDiDiForVideoClassification,
    ViDiDiModel,
    ViDiDiVideoProcessor,
)
from vididi_hf.saving_vididi import AUTO_MAPS

FILES = {path.stem: path for path in Path(vididi_hf.__file__).parent.glob("*_vididi.py")}
CLIP = torch.rand(1, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
VIDEO = torch.randint(256, (30, 3, 40, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
BOXES = [torch.tensor([[0.1, 0.1, 0.7, 0.9]])]
LOADED_BY = {
    ViDiDiModel: "AutoModel",
    ViDiDiForPreTraining: "AutoModel",
    ViDiDiForVideoClassification: "AutoModelForVideoClassification",
    ViDiDiForActionDetection: "AutoModelForObjectDetection",
}


def build(model_class):
    torch.manual_seed(0)
    sizes = {"hidden_sizes": (4, 4, 8, 8), "depths": (1, 1, 1, 1), "num_frames": 4, "image_size": 32}
    return model_class(ViDiDiConfig(**sizes, num_labels=3, objective_options={"projector_sizes": (8, 8)})).eval()


def output_of(model):
    model = getattr(model, "vididi", model) if isinstance(model, ViDiDiForPreTraining) else model
    given = {"boxes": BOXES} if "Detection" in type(model).__name__ else {}
    with torch.inference_mode():
        output = model(CLIP, **given)
    return output["logits"] if "logits" in output else output["pooler_output"]


def load(folder, file, auto):
    where = json.loads((folder / file).read_text())["auto_map"][auto]
    remote = get_class_from_dynamic_module(where, str(folder))
    assert remote.__module__.startswith("transformers_modules")
    return remote.from_pretrained(folder)


def save(how, model, processor, folder):
    if how == "Trainer.save_model":
        arguments = TrainingArguments(folder, report_to=[], use_cpu=True)
        Trainer(model, arguments, processing_class=processor).save_model()
    else:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


def test_every_relative_import_is_carried_and_no_absolute_one_is_ours():
    for path in FILES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert (node.level, node.module in FILES) == (1, True)
            elif isinstance(node, ast.ImportFrom | ast.Import):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert "vididi_hf" not in {name.split(".")[0] for name in names}


@pytest.mark.parametrize("how", ["save_pretrained", "Trainer.save_model"])
@pytest.mark.parametrize("model_class", LOADED_BY)
def test_a_saved_model_loads_by_the_code_that_it_carries(model_class, how, tmp_path, remote_code_cache):
    model, processor = build(model_class), ViDiDiVideoProcessor(num_frames=4, size=36, crop_size=32)
    folder, again = tmp_path / "saved", tmp_path / "again"
    save(how, model, processor, folder)
    assert {path.stem for path in folder.glob("*_vididi.py")} == set(FILES)
    for name, auto_map in AUTO_MAPS.items():
        assert json.loads((folder / name).read_text())["auto_map"] == auto_map
    # The Auto classes prefer the package while it is installed; `test_round_trip.py` calls them without it.
    remote = load(folder, "config.json", LOADED_BY[model_class]).eval()
    remote_processor = load(folder, "video_preprocessor_config.json", "AutoVideoProcessor")
    assert torch.equal(output_of(remote), output_of(model))
    assert torch.equal(remote_processor(VIDEO)["pixel_values"], processor(VIDEO)["pixel_values"])
    save("save_pretrained", remote, remote_processor, again)  # what came with a repository can be saved again
    assert torch.equal(output_of(load(again, "config.json", LOADED_BY[model_class]).eval()), output_of(model))


@pytest.mark.parametrize("model_class", LOADED_BY)
def test_the_card_is_useful_and_that_of_the_user_stays(model_class, tmp_path, write_video):
    model, folder = build(model_class), tmp_path / "saved"
    save("save_pretrained", model, ViDiDiVideoProcessor(num_frames=4, size=36, crop_size=32), folder)
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "transformers"
    claims = model_class is ViDiDiForVideoClassification
    assert card.data.get("pipeline_tag") == ("video-classification" if claims else None)
    [code] = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    code = code.replace('"saved"', repr(str(folder))).replace("path/to/video.mp4", str(write_video(tmp_path / "v.mp4")))
    exec(compile(code, "README.md", "exec"), {"boxes": BOXES})
    (folder / "README.md").write_text("mine")
    model.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "mine"

"""A card says what the repository's files say, and nothing else."""

import json
import re

import pytest
import torch
from huggingface_hub import ModelCard
from torch import nn

from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.hub import card
from vididi_hf.hub.card import check_links, measure_cost, read_emissions
from vididi_hf.hub.options import PublishOptions
from vididi_hf.hub.publishing import leave_out_code, prepare_repository
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

REPO = "org/vididi-vicreg"


def write_card(folder, **options):
    return card.write_card(folder, PublishOptions(checkpoint="unused", repo="org/bare", **options)).read_text()


@pytest.fixture
def bare(tmp_path):
    """The least that a repository holds, which has no code."""
    config = ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1), image_size=32)
    ViDiDiModel(config).save_pretrained(tmp_path)
    ViDiDiVideoProcessor(num_frames=4, size=32, crop_size=32).save_pretrained(tmp_path)
    leave_out_code(tmp_path)
    return tmp_path


def test_everything_that_was_measured(run_folder, tmp_path):
    prepare_repository(PublishOptions(checkpoint=str(run_folder), repo=REPO), tmp_path)
    text = (tmp_path / "README.md").read_text()
    data = ModelCard(text).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "transformers", None)
    assert data.tags == ["vididi", "video", "self-supervised-learning", "vicreg"]
    assert data.model_name == "vididi-vicreg"
    assert {(entry.metric_name, entry.metric_value) for entry in data.eval_results} == {
        ("R@1, retrieval (frames)", 0.25),
        ("R@5, retrieval (frames)", 0.5),
        ("R@1, retrieval (both)", 0.125),
    }
    for entry in data.eval_results:
        assert (entry.dataset_type, entry.dataset_name, entry.dataset_split) == ("videos", "videos", "test")
        assert (entry.metric_args["clips_per_video"], entry.metric_args["crop"]) == (10, "center")
    table = [line for line in text.splitlines() if line.startswith(("| frames", "| both", "| input"))]
    assert table == ["| input | R@1 | R@5 |", "| frames | 25.0 | 50.0 |", "| both | 12.5 |  |"]
    for part in (
        *("| order_schedule | paper |", "| steps | 10 |", "| mean loss of the last epoch | 2.25 |"),
        "| videos per second | 50 |",  # the mean of 40 and 60
        "### Video retrieval: videos, split test",
        "Protocol: clips per video 10, crop center, failed videos 1.",
        "trained without labels on the split `train` of videos.",
    ):
        assert part in text
    assert "20-NN" not in text  # not measured
    assert re.findall(r"!\[(.+)\]\((.+)\)", text) == [
        ("Test videos and their nearest training videos", "figures/retrieval.png"),
        ("Training curves", "figures/curves.png"),
    ]
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert [REPO in block for block in blocks] == [True, True]
    assert "trust_remote_code" not in blocks[0]
    assert "vididi_hf" not in blocks[1]


def test_what_was_not_measured_is_absent(bare):
    text = write_card(bare)
    data = ModelCard(text).data
    assert data.eval_results is None
    assert data.library_name == "vididi_hf"  # it carries no code
    absent = ("## Results", "## Training", "![", "was trained", "trust_remote_code", "recipe.json", "## Notes", "None")
    assert not [part for part in absent if part in text]
    assert "This model has not been evaluated." in text


def test_training_is_what_the_recipe_says_and_the_metrics_prove(bare):
    (bare / "recipe.json").write_text(json.dumps({"dataset": "motion", "split": "train", "objective": "byol"}))
    text = write_card(bare)
    assert "was trained" not in text
    assert "This checkpoint has no metrics of a training run." in text
    (bare / "metrics.jsonl").write_text('{"epoch": 1, "loss": 1.0}\n')
    text = write_card(bare)
    assert "trained without labels on the split `train` of motion. The data set is generated" in text
    assert "both views" not in text
    old_name = {"dataset": "motion", "objective": "vicreg", "schedule": "baseline"}
    (bare / "recipe.json").write_text(json.dumps(old_name))
    text = write_card(bare)
    assert "It was trained with VICReg alone" in text
    assert "| order_schedule | baseline |" in text
    assert "It trains one network to embed" not in text


def test_options(bare):
    (bare / "emissions.csv").write_text("run_id,emissions\na,0.001\na,0.004\n")
    (bare / "notes.txt").write_text("Trained with *care*.")
    license = {"license": "other", "license_name": "my license", "license_link": "https://example.org"}
    text = write_card(bare, **license, base_model="owner/encoder", notes=str(bare / "notes.txt"))
    data = ModelCard(text).data
    assert {name: data[name] for name in license} == license
    assert data.base_model == "owner/encoder"
    assert data.co2_eq_emissions["emissions"] == 4.0  # grams; the last row of a run counts
    assert "## Notes\n\nTrained with *care*.\n" in text
    assert "The license of the weights is my license." in text
    (bare / "mine.md").write_text("---\n{{ card_data }}\n---\n{{ model_name }} has {{ config.backbone }}.\n")
    assert write_card(bare, template=str(bare / "mine.md")).endswith("bare has r3d_18.\n")


def test_links_lead_to_files(tmp_path):
    text = "![a](figures/a.png) [here](#top) [there](https://example.org/x.png)\n```python\nx[0](missing)\n```\n"
    with pytest.raises(ValueError, match=r"links to figures/a\.png, which is not a file of the repository"):
        check_links(text, tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.png").touch()
    check_links(text, tmp_path)


def test_emissions_of_several_runs_are_added(tmp_path):
    path = tmp_path / "emissions.csv"
    assert read_emissions(path) is None
    lines = ["run_id,emissions,country_name,gpu_model", "a,0.5,,GPU 1", "b,0.25,,GPU 2", "a,0.75,,GPU 1"]
    path.write_text("\n".join(lines))
    assert read_emissions(path) == {"emissions": 1000.0, "source": "codecarbon", "hardware_used": "GPU 2"}
    path.write_text(lines[0])
    assert read_emissions(path) is None


def test_cost_against_counting_by_hand():
    config = ViDiDiConfig(backbone="r2plus1d_18", hidden_sizes=(4, 6, 8, 8), depths=(1, 2, 1, 1))
    processor = ViDiDiVideoProcessor(num_frames=6, size=40, crop_size=36)
    model, operations = ViDiDiModel(config).eval(), 0

    def count(module, inputs, output):
        nonlocal operations
        operations += 2 * output.numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, 6, 3, 36, 36))
    assert measure_cost(config, processor) == (sum(p.numel() for p in model.parameters()), operations)


def test_the_published_size_of_r3d_18():
    parameters, operations = measure_cost(ViDiDiConfig(), ViDiDiVideoProcessor(num_frames=16))
    assert parameters == 33_371_472 - 400 * 513  # torchvision's count without its classifier
    assert operations / 2e9 == pytest.approx(40.7, abs=0.05)  # the multiply-adds that torchvision states

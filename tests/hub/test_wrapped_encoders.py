"""An encoder comes from the Hub, is wrapped, published with its code, and loaded by a user without this package."""

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, constants
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from tests.hub.hub_server import TOKEN, HubServer
from tests.tiny_encoders import CONFIGS, FRAMES, SIZE, save_encoder
from vididi_hf import ViDiDiModel, ViDiDiVideoProcessor, publish


@pytest.fixture
def api(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HfApi:
    """A client of the loopback Hub, which transformers asks, too."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return HfApi(endpoint=hub.url, token=TOKEN)


@pytest.mark.parametrize("name", CONFIGS)
def test_from_the_hub_and_back(name: str, api: HfApi, remote_code_cache: Path, tmp_path: Path) -> None:
    clip = torch.randn(1, FRAMES, 3, SIZE, SIZE)
    api.create_repo(f"org/{name}")
    api.upload_folder(repo_id=f"org/{name}", folder_path=save_encoder(tmp_path / name, name))
    model = ViDiDiModel.from_encoder(f"org/{name}")
    processor = ViDiDiVideoProcessor.from_encoder(f"org/{name}")
    model.save_pretrained(tmp_path / "run" / name)
    processor.save_pretrained(tmp_path / "run" / name)
    repo = f"org/vididi-{name}"
    publish(tmp_path / "run" / name, repo, base_model=f"org/{name}", api=api)
    carried: Any = get_class_from_dynamic_module("modeling_vididi.ViDiDiModel", repo)
    assert carried is not ViDiDiModel
    with torch.no_grad():
        found = carried.from_pretrained(repo).eval()(clip).pooler_output
        torch.testing.assert_close(found, model(clip).pooler_output, rtol=0, atol=0)
    again = ViDiDiVideoProcessor.from_pretrained(repo)
    assert (again.image_mean, again.crop_size) == (processor.image_mean, processor.crop_size)
    card = ModelCard.load(api.hf_hub_download(repo, "README.md"))
    assert card.data.base_model == f"org/{name}"
    assert f"| backbone | {model.config.backbone_name} |" in card.text

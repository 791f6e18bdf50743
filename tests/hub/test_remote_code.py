"""What a checkpoint carries is complete, and refers to nothing but itself."""

import ast
import json

import pytest

from vididi_hf.hub.remote_code import AUTO_MAPS, carry_code, code_files


def imports(path):
    """Modules that a file imports: relative ones with their dots, absolute ones by their first name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.add("." * node.level + node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found


def test_every_relative_import_is_carried_and_no_absolute_one_is_ours():
    files = {path.stem: path for path in code_files()}
    assert {"configuration_vididi", "choices_vididi", "modeling_vididi", "backbone_vididi"} <= set(files)
    assert {"video_processing_vididi", "decoding_vididi", "derivatives_vididi"} <= set(files)
    for path in files.values():
        relative = {name.removeprefix(".") for name in imports(path) if name.startswith(".")}
        assert relative <= set(files)
        assert "vididi_hf" not in imports(path)
        assert path.parent.name == "vididi_hf"  # flat: transformers copies files, not folders


def test_the_classes_are_where_the_map_says():
    trees = {path.stem: ast.parse(path.read_text()) for path in code_files()}
    for classes in AUTO_MAPS.values():
        for module, name in classes.values():
            assert name in {node.name for node in trees[module].body if isinstance(node, ast.ClassDef)}


def test_settings_stay_and_the_map_is_added(tmp_path):
    (tmp_path / "config.json").write_text('{"backbone": "s3d"}')
    (tmp_path / "video_preprocessor_config.json").write_text('{"num_frames": 5}')
    copies = carry_code(tmp_path)
    assert {path.name for path in copies} == {path.name for path in code_files()}
    assert all(copy.read_bytes() == original.read_bytes() for copy, original in zip(copies, code_files()))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["backbone"] == "s3d"
    assert config["auto_map"] == {
        "AutoConfig": "configuration_vididi.ViDiDiConfig",
        "AutoModel": "modeling_vididi.ViDiDiModel",
        "AutoModelForObjectDetection": "detection_vididi.ViDiDiForActionDetection",
        "AutoModelForVideoClassification": "classification_vididi.ViDiDiForVideoClassification",
    }
    processor = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert processor["num_frames"] == 5
    assert processor["auto_map"] == {"AutoVideoProcessor": "video_processing_vididi.ViDiDiVideoProcessor"}


def test_a_folder_without_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        carry_code(tmp_path)
    assert list(tmp_path.iterdir()) == []

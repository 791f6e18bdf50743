"""What a checkpoint carries is complete, and refers to nothing but itself."""

import ast
import json

from vididi_hf.hub.remote_code import AUTO_MAPS, carry_code, code_files


def test_every_relative_import_is_carried_and_no_absolute_one_is_ours():
    files = {path.stem: path for path in code_files()}
    assert {"configuration_vididi", "choices_vididi", "modeling_vididi", "backbone_vididi"} <= set(files)
    assert {"video_processing_vididi", "decoding_vididi", "derivatives_vididi"} <= set(files)
    classes = {}
    for name, path in files.items():
        assert path.parent.name == "vididi_hf"  # flat: transformers copies files, not folders
        tree = ast.parse(path.read_text())
        classes[name] = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1
                assert node.module in files
            elif isinstance(node, ast.ImportFrom | ast.Import):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert "vididi_hf" not in {name.split(".")[0] for name in names}
    for auto_map in AUTO_MAPS.values():
        assert all(name in classes[module] for module, name in auto_map.values())


def test_settings_stay_and_the_map_is_added(tmp_path):
    (tmp_path / "config.json").write_text('{"backbone": "s3d"}')
    (tmp_path / "video_preprocessor_config.json").write_text('{"num_frames": 5}')
    copies = carry_code(tmp_path)
    assert [copy.name for copy in copies] == [original.name for original in code_files()]
    assert all(copy.read_bytes() == original.read_bytes() for copy, original in zip(copies, code_files()))
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "backbone": "s3d",
        "auto_map": {
            "AutoConfig": "configuration_vididi.ViDiDiConfig",
            "AutoModel": "modeling_vididi.ViDiDiModel",
            "AutoModelForObjectDetection": "detection_vididi.ViDiDiForActionDetection",
            "AutoModelForVideoClassification": "classification_vididi.ViDiDiForVideoClassification",
        },
    }
    processor = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    auto_map = {"AutoVideoProcessor": "video_processing_vididi.ViDiDiVideoProcessor"}
    assert processor == {"num_frames": 5, "auto_map": auto_map}

"""The card is what the Hub parses and says what the report says."""

from huggingface_hub import DatasetCard

from vididi_hf.data.preparation.card import dataset_card

SPLIT = {"videos": 2400, "stored": 2398, "kept": 2000, "re-encoded": 390, "repaired": [{}] * 8, "dropped": [{}] * 2}
REPORT = {
    "dataset": "waves",
    "settings": {"short_side": 128, "shuffle": True},
    "splits": {"train": {**SPLIT, "shards": [{}] * 10}, "test": {**SPLIT, "shards": [{}]}},
}


def test_the_header_names_the_files_of_each_split():
    data = DatasetCard(dataset_card(REPORT, "cc-by-4.0")).data.to_dict()
    (config,) = data["configs"]
    assert {(files["split"], files["path"]) for files in config["data_files"]} == {
        ("train", "data/train-*.parquet"),
        ("test", "data/test-*.parquet"),
    }
    assert data["license"] == "cc-by-4.0"
    assert data["size_categories"] == ["1K<n<10K"]
    assert data["task_categories"] == ["video-classification"]
    assert "license" not in DatasetCard(dataset_card(REPORT)).data.to_dict()

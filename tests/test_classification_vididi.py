"""The classifier: what it computes, what Trainer, pipeline and Auto classes make of it, what freezing freezes."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoModelForVideoClassification,
    Trainer,
    TrainingArguments,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEVideoProcessor,
    pipeline,
)

from vididi_hf import ViDiDiConfig, ViDiDiForVideoClassification, ViDiDiVideoProcessor

LABELS = {0: "walk", 1: "run", 2: "jump"}


def build(**changes):
    torch.manual_seed(0)
    sizes = {"hidden_sizes": (4, 4, 6, 8), "depths": (1, 1, 1, 1), "num_frames": 4, "image_size": 32}
    return ViDiDiForVideoClassification(ViDiDiConfig(**({**sizes, "id2label": LABELS} | changes)))


@pytest.fixture
def clips():
    return torch.randn(2, 6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_logits_are_a_linear_map_of_pooled_features(clips):
    model = build().eval()
    pooled = model.vididi(clips).pooler_output
    expected = pooled @ model.classifier.weight.T + model.classifier.bias
    output = model(clips)
    torch.testing.assert_close(output.logits, expected)
    assert output.keys() == {"logits"}
    assert len(model(clips, output_hidden_states=True).hidden_states) == 5
    assert len(model(clips, labels=torch.tensor([0, 1]), return_dict=False)) == 2


@pytest.mark.parametrize("scale", ["none", "unit"])
def test_it_differentiates_the_frames_itself_and_rescales_as_in_pretraining(clips, scale):
    model, plain = (build(classifier_orders=(0, 1), derivative_scale=name).eval() for name in (scale, "none"))
    derivative = clips[:, 1:] - clips[:, :-1]
    if scale == "unit":
        derivative = torch.stack([clip / clip.square().mean().sqrt() for clip in derivative])
    features = [plain.vididi(clips[:, :5]).pooler_output, plain.vididi(derivative, derivative_order=1).pooler_output]
    expected = plain.classifier(torch.cat(features, dim=1))
    torch.testing.assert_close(model(clips).logits, expected, rtol=1e-4, atol=1e-5)


def test_other_orders_than_those_of_the_configuration(clips):
    one = build(classifier_orders=(1,)).eval()
    expected = one.classifier(one.vididi(clips).pooler_output)
    torch.testing.assert_close(one(clips, derivative_orders=(0,)).logits, expected)


def test_given_derivatives_replace_differentiation(clips):
    model = build(classifier_orders=(0, 1)).eval()
    frames, derivative = clips[:, :5], clips[:, 1:] - clips[:, :-1]
    torch.testing.assert_close(model(frames, pixel_values_order_1=derivative).logits, model(clips).logits)
    alone = build(classifier_orders=(1,)).eval()
    torch.testing.assert_close(alone(pixel_values_order_1=derivative).logits, alone(clips).logits)
    torch.testing.assert_close(alone(clips, pixel_values_order_2=clips).logits, alone(clips).logits)
    with pytest.raises(ValueError, match=r"pixel_values is missing: .* \(1,\) need frames, got \[2\]"):
        alone(pixel_values_order_2=clips)


@pytest.mark.parametrize(
    ("problem_type", "mean"),
    [
        (None, lambda logits: logits.softmax(-1).mean(1).log()),
        ("single_label_classification", lambda logits: logits.softmax(-1).mean(1).log()),
        ("multi_label_classification", lambda logits: logits.sigmoid().mean(1).logit()),
        ("regression", lambda logits: logits.mean(1)),
    ],
)
def test_probabilities_of_clips_are_averaged(clips, problem_type, mean):
    model = build(problem_type=problem_type, classifier_orders=(0, 1)).eval()
    model.classifier.weight.data *= 20  # clips that disagree
    each = torch.stack([model(clips).logits, model(clips.flip(1)).logits, model(-clips).logits], dim=1)
    several = torch.stack([clips, clips.flip(1), -clips], dim=1)
    torch.testing.assert_close(model(several).logits, mean(each), rtol=1e-4, atol=1e-4)
    if problem_type == "single_label_classification":
        expected = F.nll_loss(each.softmax(-1).mean(1).log(), torch.tensor([0, 2]))
        torch.testing.assert_close(model(several, labels=torch.tensor([0, 2])).loss, expected)


def test_dropout_is_applied_to_the_features_in_training_only(clips):
    model, seen = build(classifier_dropout=0.5).eval(), []
    model.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(clips)
    model.dropout.train()
    model(clips)
    kept = seen[1] != 0
    assert 0 < kept.sum() < (seen[0] != 0).sum()
    torch.testing.assert_close(seen[1][kept], 2 * seen[0][kept])


def test_losses_follow_the_kind_of_problem(clips):
    model, labels = build().eval(), torch.tensor([2, 0])
    logits = model(clips).logits
    expected = -torch.stack([logits[0].log_softmax(0)[2], logits[1].log_softmax(0)[0]]).mean()
    torch.testing.assert_close(model(clips, labels=labels).loss, expected)
    assert model.config.problem_type == "single_label_classification"

    model, labels = build().eval(), torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    probability = model(clips).logits.sigmoid()
    expected = -(labels * probability.log() + (1 - labels) * (1 - probability).log()).mean()
    torch.testing.assert_close(model(clips, labels=labels).loss, expected)
    assert model.config.problem_type == "multi_label_classification"
    torch.testing.assert_close(model(clips, labels=labels.long()).loss, expected)  # integers, once it is known

    model, labels = build(id2label={0: "speed"}).eval(), torch.tensor([1.0, -2.0])
    expected = (model(clips).logits[:, 0] - labels).square().mean()
    torch.testing.assert_close(model(clips, labels=labels).loss, expected)
    assert model.config.problem_type == "regression"


def test_impossible_input_is_named(clips):
    with pytest.raises(ValueError, match=r"takes 1 derivative orders .* got \(0, 1\)"):
        build()(clips, derivative_orders=(0, 1))
    with pytest.raises(ValueError, match=r"at least 4 frames.* for the derivative orders \(2,\), got shape \(2, 3"):
        build(classifier_orders=(2,))(clips[:, :3])
    with pytest.raises(ValueError, match=r"must be \(batch, at least 2 frames, .*, got shape \(6, 3"):
        build()(clips[0])
    with pytest.raises(ValueError, match="must be one of all, last_stage, head, got 'nothing'"):
        build().train_only("nothing")


@pytest.mark.parametrize("backbone", ["r3d_18", "s3d"])
@pytest.mark.parametrize(("part", "moves"), [("head", 0), ("last_stage", 1), ("all", 5)])
def test_frozen_parts_keep_weights_and_batch_statistics(part, moves, backbone, clips):
    sizes = {"hidden_sizes": None, "depths": None} if backbone == "s3d" else {}
    model = build(backbone=backbone, **sizes)
    model.train_only("head")
    assert not any(module.training for module in model.modules() if isinstance(module, nn.BatchNorm3d))
    model.train_only(part)
    assert part != "all" or all(module.training for module in model.modules())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        model.eval()
        model.train()  # as every trainer calls it
        model(clips, labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    names = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
    for index, stage in enumerate(model.vididi.backbone.stages()):
        of_stage = {names[id(tensor)] for tensor in stage.state_dict(keep_vars=True).values()}
        statistics = {name for name in of_stage if "running" in name}
        assert statistics
        assert statistics <= changed if index >= 5 - moves else not of_stage & changed
    assert {"classifier.weight", "classifier.bias"} <= changed


def test_round_trip_through_the_auto_class(clips, tmp_path):
    model = build(classifier_orders=(0, 1), classifier_dropout=0.5).eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForVideoClassification.from_pretrained(tmp_path)
    assert type(loaded) is ViDiDiForVideoClassification
    assert (loaded.config.id2label, loaded.config.classifier_orders) == (LABELS, (0, 1))
    assert torch.equal(loaded(clips).logits, model(clips).logits)


@pytest.mark.parametrize("orders", [(0,), (0, 2)])
def test_the_pipeline_answers_on_files_without_pyav(orders, write_video, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("transformers.pipelines.video_classification.requires_backends", lambda *_: 1 / 0)
    model, video = build(classifier_orders=orders).eval(), write_video(tmp_path / "video.mp4")
    model.save_pretrained(tmp_path / "model")
    processor = ViDiDiVideoProcessor(num_frames=4, size={"height": 32, "width": 32}, crop_size=32)
    processor.save_pretrained(tmp_path / "model")
    with caplog.at_level(logging.ERROR, logger="transformers"):
        logging.getLogger("transformers").propagate = True
        classify = pipeline("video-classification", model=str(tmp_path / "model"))
        answer = classify(str(video), top_k=2)
    assert "not supported" not in caplog.text
    probabilities = model(**processor(str(video), derivative_orders=orders)).logits.softmax(-1)[0]
    best = probabilities.argsort(descending=True)[:2].tolist()
    assert [entry["label"] for entry in answer] == [LABELS[index] for index in best]
    assert [entry["score"] for entry in answer] == pytest.approx(probabilities[best].tolist(), rel=1e-4)
    frames = processor(str(video), num_clips=3, num_frames=5, frame_stride=2, derivative_orders=orders)
    expected = model(**frames).logits.softmax(-1).max().item()
    settings = {"num_clips": 3, "num_frames": 5, "frame_sampling_rate": 2, "top_k": 1}
    for [answer] in classify([str(video), str(video)], batch_size=2, **settings):
        assert answer["score"] == pytest.approx(expected, rel=1e-4)


def test_other_models_keep_the_pipeline_of_transformers(monkeypatch):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = VideoMAEConfig(**sizes, image_size=32, num_frames=4, num_labels=3)
    processor = VideoMAEVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pytest.importorskip("av")
    classify = pipeline(
        "video-classification", model=VideoMAEForVideoClassification(config), video_processor=processor, num_frames=4
    )
    assert len(classify(torch.zeros(9, 3, 40, 40, dtype=torch.uint8).numpy())) == 3
    monkeypatch.setattr("transformers.pipelines.video_classification.requires_backends", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pipeline("video-classification", model=VideoMAEForVideoClassification(config), video_processor=processor)


def test_trainer_trains_it_as_it_is(tmp_path):
    clips = 0.1 * torch.randn(12, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    clips += torch.tensor([-1.0, 1.0, 0.0]).repeat(4).reshape(12, 1, 1, 1, 1)  # dark, bright, and flickering
    clips[2::3, ::2] += 1
    rows = [{"pixel_values": clip, "labels": index % 3} for index, clip in enumerate(clips)]
    settings = {"save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True, "logging_steps": 2}
    arguments = TrainingArguments(
        tmp_path, per_device_train_batch_size=6, num_train_epochs=12, learning_rate=0.02, **settings
    )
    trainer = Trainer(build(classifier_dropout=0.1), arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.5 * losses[0]
    predictions = trainer.predict(rows)
    expected = F.cross_entropy(torch.tensor(predictions.predictions), torch.tensor(predictions.label_ids))
    assert predictions.metrics["test_loss"] == pytest.approx(float(expected), rel=1e-4)
    assert predictions.label_ids.tolist() == [row["labels"] for row in rows]

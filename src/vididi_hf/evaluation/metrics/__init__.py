"""Metrics as `evaluate.Metric` classes: create one, `add_batch`, `compute`. They work offline."""

from vididi_hf.evaluation.metrics.accuracy import MeanClassAccuracy, TopKAccuracy
from vididi_hf.evaluation.metrics.ava_map import AVAMeanAP
from vididi_hf.evaluation.metrics.detection import FrameMeanAP
from vididi_hf.evaluation.metrics.recall_at_k import RecallAtK
from vididi_hf.evaluation.metrics.tubes import VideoMeanAP

__all__ = ["AVAMeanAP", "FrameMeanAP", "MeanClassAccuracy", "RecallAtK", "TopKAccuracy", "VideoMeanAP"]

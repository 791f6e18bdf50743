"""Metrics as `evaluate.Metric`s that need no network: make one, `add_batch`, `compute`.

`evaluate.load` fetches a script from the Hub; these are classes of this package. They keep what is added in a file of
the cache of `evaluate`, or in memory with `keep_in_memory=True`.

The mathematics of each is in functions of the same file, which take arrays or tensors.
"""

from vididi_hf.evaluation.metrics.ava_map import AVAMeanAP
from vididi_hf.evaluation.metrics.frame_map import FrameMeanAP
from vididi_hf.evaluation.metrics.mean_class_accuracy import MeanClassAccuracy
from vididi_hf.evaluation.metrics.recall_at_k import RecallAtK
from vididi_hf.evaluation.metrics.top_k_accuracy import TopKAccuracy

__all__ = ["AVAMeanAP", "FrameMeanAP", "MeanClassAccuracy", "RecallAtK", "TopKAccuracy"]

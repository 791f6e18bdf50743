"""Linear probe: how well can a linear classifier separate the features of a frozen encoder?"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from vididi_hf.data.seeding import seeded_generator
from vididi_hf.evaluation.features import EmbeddedVideos, FrozenEvaluator
from vididi_hf.evaluation.inputs import CLASSIFIER_INPUTS, INPUTS, single_inputs
from vididi_hf.evaluation.metrics.accuracy import score_inputs
from vididi_hf.evaluation.options import C_VALUES
from vididi_hf.evaluation.results import EvaluationResult
from vididi_hf.options import option


def fit_logistic_regression(features: Tensor, labels: Tensor, C: float) -> Pipeline:
    """Fits scikit-learn's `LogisticRegression(C=C)` to features (videos, dimensions) that it standardizes first."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=5000, tol=1e-6))
    return classifier.fit(features.double().numpy(), labels.numpy())


def split_by_class(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Sets a random share of every class apart, but never all of it; returns the indices of the rest and the share."""
    apart = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        count = min(max(1, round(share * len(members))), len(members) - 1)
        order = torch.randperm(len(members), generator=seeded_generator("validation", seed, label))
        apart[members[order[:count]]] = True
    return (~apart).nonzero().flatten(), apart.nonzero().flatten()


def choose_C(features: Tensor, labels: Tensor, candidates: Sequence[float] = C_VALUES, seed: int = 0) -> float:
    """Chooses the C that classifies a fifth of the training videos best; the middle one if that leaves no videos."""
    fitted, held_out = split_by_class(labels, 0.2, seed)
    ordered = sorted(candidates)
    if len(held_out) == 0:
        return ordered[len(ordered) // 2]
    validation = features[held_out].double().numpy(), labels[held_out].numpy()
    return max(ordered, key=lambda C: fit_logistic_regression(features[fitted], labels[fitted], C).score(*validation))


@dataclass
class LinearEvaluator(FrozenEvaluator):
    """Fits a logistic regression to the features of the training videos and classifies the test videos.

    A fifth of the *training* videos (of every class) chooses the regularization, then all of them are used for the fit.
    With `group_column`, this is repeated for every value of the column that the queries have.

    The input "both" concatenates the features of frames and derivative; "ensemble" averages two regressions.

    Args:
        C: The inverse regularization strengths to choose from, as in scikit-learn's `LogisticRegression`.
        seed: The seed of the validation part.

    Source: the linear probe of the self-supervision literature, with scikit-learn's regularized logistic regression.

    Example:
        >>> from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor, load_video_dataset
        >>> model = ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1)))
        >>> train, test = (load_video_dataset("motion", split=s, num_train=8, num_test=8) for s in ("train", "test"))
        >>> processor = ViDiDiVideoProcessor(size=32, crop_size=32)
        >>> result = LinearEvaluator(train, test, processor, inputs=("frames",), num_clips=1)(model)
        >>> sorted(result["metrics"]["frames"]), result["protocol"]["gallery_videos"]
        (['mean-class', 'top-1', 'top-5'], 8)
    """

    C: Sequence[float] = option(default=C_VALUES, old_names=("strengths",), help="See above.")
    seed: int = 0

    task = "linear"
    known_inputs = CLASSIFIER_INPUTS
    primary_metric = "top-1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.C or not min(self.C) > 0:
            raise ValueError(f"C must be one or more positive numbers, got {list(self.C)}")

    def score(self, gallery: EmbeddedVideos, queries: EmbeddedVideos) -> EvaluationResult:
        """Fits and classifies, with features from `embed`, perhaps with other labels."""
        searched = torch.full_like(gallery.labels, -1) if gallery.groups is None else gallery.groups
        tested = torch.zeros_like(queries.labels) if queries.groups is None else queries.groups
        num_classes = 1 + int(torch.cat([gallery.labels, queries.labels]).max())
        probabilities: dict[str, Tensor] = {}
        chosen: dict[str, list[float]] = {}
        for name in single_inputs(self.inputs):
            sides = [[part.features.by_order[order] for order in INPUTS[name]] for part in (gallery, queries)]
            known, asked = (torch.cat(parts, dim=-1).double() for parts in sides)
            probabilities[name] = torch.zeros(len(asked), num_classes, dtype=torch.float64)
            chosen[name] = []
            for group in tested.unique():
                train, test = (searched != group).nonzero().flatten(), (tested == group).nonzero().flatten()
                labels = gallery.labels[train]
                classes = labels.unique()
                if len(classes) == 1:  # which scikit-learn refuses
                    probabilities[name][test, classes[0]] = 1.0
                    continue
                C = choose_C(known[train], labels, self.C, self.seed)
                predicted = fit_logistic_regression(known[train], labels, C).predict_proba(asked[test].numpy())
                probabilities[name][test[:, None], classes] = torch.from_numpy(predicted)
                chosen[name].append(C)
        metrics = score_inputs(self.inputs, probabilities, queries.labels)
        how = {"classifier": "logistic regression", "C": chosen, "validation": "1/5 of the training videos"}
        return self.result(gallery, queries, metrics, **how)

"""Linear probe: how far do straight boundaries between the features of a frozen encoder get?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vididi_hf.data.seeding import seeded_generator
from vididi_hf.evaluation.features import VideoFeatures
from vididi_hf.evaluation.frozen import EmbeddedVideos, FrozenEvaluator, num_classes_of
from vididi_hf.evaluation.inputs import CLASSIFIER_INPUTS, INPUTS, score_inputs, single_inputs
from vididi_hf.evaluation.results import EvaluationResult
from vididi_hf.modeling_vididi import ViDiDiModel

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass
class LinearClassifier:
    """A linear classifier of standardized features.

    Attributes:
        mean: (dimensions,), of the training features.
        deviation: (dimensions,), likewise; 1 for a feature that does not vary.
        weight: (classes, dimensions).
        bias: (classes,).
    """

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Returns the probabilities (videos, classes) of features (videos, dimensions)."""
        standardized = (features.to(self.weight) - self.mean) / self.deviation
        return F.linear(standardized, self.weight, self.bias).softmax(dim=-1)


def fit_logistic_regression(
    features: Tensor, labels: Tensor, num_classes: int, strength: float, max_iterations: int = 1000
) -> LinearClassifier:
    """Fits a multinomial logistic regression.

    Features are standardized by their mean and deviation. Then `strength` · Σ cross-entropy + ½ ‖weight‖² is minimized
    by L-BFGS in double precision, which is scikit-learn's `LogisticRegression(C=strength)`: biases are not regularized,
    and a greater strength regularizes less.

    Args:
        features: (videos, dimensions).
        labels: int64 (videos,), between 0 and classes − 1.
        num_classes: The number of classes; those without a video become very unlikely.
        strength: The weight of the data, positive.
        max_iterations: Steps of L-BFGS at most.

    Returns:
        The classifier.

    Example:
        ```python
        >>> import torch
        >>> from vididi_hf.evaluation.linear import fit_logistic_regression
        >>> features = torch.tensor([[0.0, 1.0], [0.1, 0.9], [1.0, 0.2], [0.8, 0.0]])
        >>> classifier = fit_logistic_regression(features, torch.tensor([0, 0, 1, 1]), num_classes=2, strength=10.0)
        >>> classifier(features).argmax(dim=1)
        tensor([0, 0, 1, 1])

        ```
    """
    features = features.double()
    mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    standardized = (features - mean) / deviation
    weight = features.new_zeros(num_classes, features.shape[1], requires_grad=True)
    bias = features.new_zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iterations,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        # Divided by the data's weight: the same minimum, and tolerances that mean the same for all strengths.
        value = F.cross_entropy(F.linear(standardized, weight, bias), labels)
        value = value + weight.square().sum() / (2 * strength * len(labels))
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return LinearClassifier(mean, deviation, weight.detach(), bias.detach())


def split_by_class(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Sets a random share of every class apart.

    Args:
        labels: int64 (videos,).
        share: The share that is set apart, rounded; of a class of two or more at least one video, and never all.
        seed: The seed of the draw.

    Returns:
        Indices of the rest and of the part set apart, both int64 and in rising order.
    """
    apart = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        count = min(max(1, round(share * len(members))), len(members) - 1)
        order = torch.randperm(len(members), generator=seeded_generator("validation", seed, label))
        apart[members[order[:count]]] = True
    return (~apart).nonzero().flatten(), apart.nonzero().flatten()


def choose_strength(
    features: Tensor, labels: Tensor, num_classes: int, strengths: Sequence[float] = STRENGTHS, seed: int = 0
) -> float:
    """Chooses the strength that classifies a fifth of the training videos best, when fitted to the others.

    Args:
        features: (videos, dimensions), of training videos only.
        labels: int64 (videos,).
        num_classes: The number of classes.
        strengths: The candidates.
        seed: The seed of the choice of that fifth.

    Returns:
        The best; of equally good ones the smallest, which regularizes most. The middle one where there is nothing to
        choose by, as every class has a single video.
    """
    fitted, held_out = split_by_class(labels, 0.2, seed)
    ordered = sorted(strengths)
    if len(held_out) == 0:
        return ordered[len(ordered) // 2]

    def accuracy(strength: float) -> float:
        classifier = fit_logistic_regression(features[fitted], labels[fitted], num_classes, strength)
        return (classifier(features[held_out]).argmax(dim=1) == labels[held_out]).double().mean().item()

    return max(ordered, key=accuracy)


@dataclass
class LinearEvaluator(FrozenEvaluator):
    """Fits a logistic regression to the features of the training videos and classifies the test videos.

    How strongly it is regularized is chosen by a fifth of the *training* videos (of every class), and then all of them
    are used. With `group_column` this is done anew for every value of the column that queries have.

    The input "both" sets the features of frames and derivative side by side; "ensemble" averages the probabilities of
    two regressions.

    Args:
        strengths: The strengths to choose from; see `fit_logistic_regression`.
        seed: The seed of the validation part.

    Example:
        ```python
        >>> from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor, load_video_dataset
        >>> from vididi_hf.evaluation.linear import LinearEvaluator
        >>> model = ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1)))
        >>> train = load_video_dataset("motion", split="train", num_train=8, num_test=8)
        >>> test = load_video_dataset("motion", split="test", num_train=8, num_test=8)
        >>> processor = ViDiDiVideoProcessor(size=32, crop_size=32)
        >>> result = LinearEvaluator(train, test, processor, inputs=("frames",), num_clips=1)(model)
        >>> sorted(result["metrics"]["frames"]), result["protocol"]["gallery_videos"]
        (['mean-class', 'top-1', 'top-5'], 8)

        ```
    """

    strengths: Sequence[float] = STRENGTHS
    seed: int = 0

    task = "linear"
    known_inputs = CLASSIFIER_INPUTS
    primary_metric = "top-1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strengths or min(self.strengths) <= 0:
            raise ValueError(f"strengths must be one or more positive numbers, got {list(self.strengths)}")

    def __call__(self, model: ViDiDiModel) -> EvaluationResult:
        """Embeds both data sets, fits, and classifies.

        Raises:
            ValueError: If no video can be decoded, or `group_column` leaves a query nothing to be learnt from.
        """
        return self.score(*self.embed(model))

    def score(self, gallery: EmbeddedVideos, queries: EmbeddedVideos) -> EvaluationResult:
        """Fits and classifies, by features that are known already.

        Args:
            gallery: What `embed` returned, perhaps with other labels.
            queries: Likewise.
        """
        num_classes = num_classes_of(gallery, queries)
        probabilities: dict[str, Tensor] = {}
        chosen: dict[str, list[float]] = {}
        for name in single_inputs(self.inputs):
            known, asked = (side_by_side(part.features, INPUTS[name]) for part in (gallery, queries))
            probabilities[name] = torch.zeros(len(asked), num_classes, dtype=torch.float64)
            chosen[name] = []
            for learnt, classified in folds(gallery, queries):
                labels = gallery.labels[learnt]
                strength = choose_strength(known[learnt], labels, num_classes, self.strengths, self.seed)
                classifier = fit_logistic_regression(known[learnt], labels, num_classes, strength)
                probabilities[name][classified] = classifier(asked[classified])
                chosen[name].append(strength)
        protocol = self.protocol(
            gallery,
            queries,
            classifier="logistic regression",
            strengths=chosen,
            validation="1/5 of the training videos",
        )
        return EvaluationResult(
            self.task,
            score_inputs(self.inputs, probabilities, queries.labels),
            protocol,
            primary=self.primary_metric,
            greater_is_better=self.greater_is_better,
            dataset=self.dataset,
            split=self.split,
        )


def side_by_side(features: VideoFeatures, orders: Sequence[int]) -> Tensor:
    """Returns one vector a video, the pooled features of the orders as they are, (videos, orders · hidden_size)."""
    return torch.cat([features.by_order[order] for order in orders], dim=-1)


def folds(gallery: EmbeddedVideos, queries: EmbeddedVideos) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterates over what is learnt from and what is classified: indices into the gallery and into the queries."""
    if gallery.groups is None or queries.groups is None:
        yield torch.arange(len(gallery.labels)), torch.arange(len(queries.labels))
        return
    for group in queries.groups.unique():
        yield (gallery.groups != group).nonzero().flatten(), (queries.groups == group).nonzero().flatten()

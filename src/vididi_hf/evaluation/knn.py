"""k-NN classification: what do the nearest training videos, voting together, say a video shows?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def knn_accuracy(
    queries: Tensor,
    gallery: Tensor,
    nearest: Tensor,
    gallery_labels: Tensor,
    query_labels: Tensor,
    temperature: float = 0.07,
    chunk: int = 256,
) -> float:
    """Computes the accuracy of a weighted vote of the nearest neighbours.

    A neighbour with the cosine similarity s adds exp(s / temperature) to the score of its label, and the label with the
    highest score is the prediction.

    Args:
        queries: (queries, dimensions).
        gallery: (gallery, dimensions).
        nearest: int64 (queries, k), the gallery items that vote; -1 is nobody.
        gallery_labels: int64 (gallery,), not negative.
        query_labels: int64 (queries,).
        temperature: The lower it is, the more the nearest of the neighbours decide.
        chunk: Queries classified at a time, which bounds the memory.

    Returns:
        The share of queries whose label is predicted, between 0 and 1.

    Source: the weighted k-NN classifier of Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination" (CVPR 2018), with its temperature; DINO (Caron et al., ICCV 2021) uses it with k = 20.

    Example:
        ```python
        >>> import torch
        >>> from vididi_hf.evaluation.knn import knn_accuracy
        >>> directions = torch.eye(2)
        >>> knn_accuracy(directions, directions, torch.tensor([[0, 1], [1, 0]]), torch.arange(2), torch.arange(2))
        1.0

        ```
    """
    num_labels = int(gallery_labels.max()) + 1
    correct = 0
    for rows in torch.arange(len(queries)).split(chunk):
        voters = F.normalize(gallery[nearest[rows]], dim=-1)
        similarity = torch.einsum("qd,qkd->qk", F.normalize(queries[rows], dim=-1), voters)
        # Similarities are at most 1: less 1, the exponential cannot overflow, and the order of the scores is the same.
        votes = ((similarity - 1) / temperature).exp().masked_fill(nearest[rows] < 0, 0)
        scores = votes.new_zeros(len(rows), num_labels).scatter_add_(1, gallery_labels[nearest[rows]], votes)
        correct += int((scores.argmax(dim=1) == query_labels[rows]).sum())
    return correct / len(queries)

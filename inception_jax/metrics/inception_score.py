"""The Inception Score, computed from logits."""

from __future__ import annotations

import itertools

import numpy as np

from inception_jax.metrics.draws import Shuffle, shuffled
from inception_jax.metrics.metric_values import MeanStd


def score_of_logits(
    logits: np.ndarray,
    *,
    splits: int = 10,
    split_size: int | None = None,
    shuffle: Shuffle | None = None,
    seed: int = 2020,
    ddof: int = 0,
) -> MeanStd:
    """Returns the Inception Score: exp of the mean KL divergence of p(class | image) from p(class).

    As in the authors' code, the probabilities are the softmax of all 1008 logits without the
    classifier's bias. Each split holds consecutive images.

    Source: Salimans et al. 2016, https://arxiv.org/abs/1606.03498, and
    https://github.com/openai/improved-gan.

    Args:
        logits: logits [n, classes] without the classifier's bias.
        splits: number of groups into which the images are split. Each group gets a score.
        split_size: number of images in each split except the last, which may be smaller. Overrides
            `splits`.
        shuffle: program whose shuffle is applied to the images first, "torch_fidelity" or
            "torchmetrics"; None: they are not shuffled. "torchmetrics" also rounds the size of a
            split up, so the last split may be smaller.
        seed: seed of the shuffle. torchmetrics shuffles in the same way after
            `torch.manual_seed(seed)`.
        ddof: the divisor of the variance is the number of splits minus `ddof`, as in `np.std`.

    Returns:
        A `MeanStd`: mean and standard deviation of the scores of the splits. The standard deviation
        is NaN if there are not more than `ddof` splits.

    Raises:
        ValueError: for fewer images than splits.
    """
    count = len(logits)
    if split_size is not None:
        splits = -(-count // split_size)
    if not 1 <= splits <= count:
        raise ValueError(
            f"{count} images cannot be cut into {splits} splits: the Inception Score needs "
            "at least one image in each"
        )
    if shuffle is not None:
        logits = logits[shuffled(count, shuffle=shuffle, seed=seed)]
    if shuffle == "torchmetrics":
        split_size = -(-count // splits)
    if split_size is None:
        bounds = [i * count // splits for i in range(splits + 1)]
    else:
        bounds = [*range(0, count, split_size), count]
    scores = [_score(logits[a:b]) for a, b in itertools.pairwise(bounds)]
    deviation = float(np.std(scores, ddof=ddof)) if len(scores) > ddof else float("nan")
    return MeanStd(float(np.mean(scores)), deviation)


def _score(logits: np.ndarray) -> float:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    p = np.exp(log_p)
    mean = p.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        # 0 log 0 counts as 0. The mean of very small numbers may also underflow to 0.
        terms = np.where((p > 0) & (mean > 0), p * (log_p - np.log(mean)), 0)
    return float(np.exp(terms.sum(1).mean()))

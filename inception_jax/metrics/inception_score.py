"""The Inception Score of logits."""

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
    """Returns exp of the mean KL divergence of p(class | image) from p(class).

    As in the authors' code, the probabilities are the softmax over all 1008 outputs of logits
    without the classifier's bias, and the images are cut into splits in their order.

    Source: Salimans et al. 2016, https://arxiv.org/abs/1606.03498, and
    https://github.com/openai/improved-gan.

    Args:
        logits: [n, classes], without the bias.
        splits: of the images, each with a score of its own.
        split_size: images in each split but the last, which may have fewer; in place of `splits`.
        shuffle: shuffle the images before, as torch-fidelity or torchmetrics do. torchmetrics then
            gives each split but the last the same number of images, rounded up.
        seed: of the shuffle; torchmetrics gives the same after `torch.manual_seed(seed)`.
        ddof: what the standard deviation takes off the number of splits.

    Returns:
        The mean of the splits' scores and their standard deviation.

    Raises:
        ValueError: for fewer images than splits.
    """
    count = len(logits)
    if split_size is not None:
        splits = -(-count // split_size)
    if not 1 <= splits <= count:
        raise ValueError(
            f"{count} images cannot be cut into {splits} splits: the Inception Score needs "
            "one image at least in each"
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
        # 0 log 0 is 0, also where a number is so small that its mean is none.
        terms = np.where((p > 0) & (mean > 0), p * (log_p - np.log(mean)), 0)
    return float(np.exp(terms.sum(1).mean()))

"""The Inception Score of logits."""

from __future__ import annotations

import numpy as np

from inception_jax.metrics.metric_values import MeanStd


def score_of_logits(logits: np.ndarray, *, splits: int = 10) -> MeanStd:
    """Returns exp of the mean KL divergence of p(class | image) from p(class).

    As in the authors' code, the probabilities are the softmax over all 1008 outputs of logits
    without the classifier's bias, and the images are cut into splits in their order. torch-fidelity
    does the same, but shuffles the images first, by default with the seed 2020.

    Source: Salimans et al. 2016, https://arxiv.org/abs/1606.03498, and
    https://github.com/openai/improved-gan.

    Args:
        logits: [n, classes], without the bias.
        splits: of the images, each with a score of its own.

    Returns:
        The mean of the splits' scores and their standard deviation.

    Raises:
        ValueError: for fewer images than splits.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(
            f"{len(logits)} images cannot be cut into {splits} splits: the Inception Score needs "
            "one image at least in each"
        )
    bounds = [i * len(logits) // splits for i in range(splits + 1)]
    scores = [_score(logits[bounds[i] : bounds[i + 1]]) for i in range(splits)]
    return MeanStd(float(np.mean(scores)), float(np.std(scores)))


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

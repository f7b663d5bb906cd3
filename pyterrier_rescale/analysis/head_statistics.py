"""Plain numbers of a sparse head: scores, density, likeness, rank correlation. numpy only, no model.

Glossary: a word means the same in audits, calibrations, ``monitor.csv``, the model card and the report. Of a batch's
scores s(q_i, d_j), with T the temperature:

- ``score_mean``, ``random_std``: mean and standard deviation over random pairs (a query, a document that is not its).
- ``score_std``: standard deviation over all scores, the positives' too.
- ``score_spread``: the median over queries of the standard deviation of one query's scores of random documents, which
  a few odd documents cannot move.
- ``margin``: mean of the positive's score minus the best other one.
- ``random_margin``: root mean square of s(q, d+) - s(q, d) over random documents d, for the median query.
- ``saturation``: mean over queries of the largest softmax probability of s / T; ``random_saturation``: the same among
  32 random documents, the positive left out.
- ``infonce``: cross-entropy of the positive among all documents of the batch, in nats; ``chance_loss`` = ln N is that
  of a guess, and the monitor's ``contrast`` is infonce / chance_loss.
- ``loss``: only the monitor's, what a step minimises; ``ranking`` is its part without the regulariser.
- ``active_terms``, ``active_terms_query`` (in the monitor ``active_d``, ``active_q``): non-zeros per text.
"""

from __future__ import annotations

import math

import numpy as np

#: Random documents per query in ``random_saturation``: a common training batch.
RANDOM_DOCUMENTS = 32


def score_numbers(queries: np.ndarray, documents: np.ndarray, temperature: float = 1.0) -> dict[str, float]:
    """The scores' part of the glossary (above) for the weights (N, V) of N queries and of their documents.

    The temperature divides the scores in the softmax.
    """
    from scipy.special import log_softmax

    scores = (queries @ documents.T).astype(np.float64)
    size, positives = len(scores), np.diag(scores)
    others = scores[~np.eye(size, dtype=bool)].reshape(size, size - 1)
    shares = log_softmax(scores / temperature, axis=1)
    return {
        "score_mean": float(others.mean()),
        "score_std": float(scores.std(ddof=1)),
        "score_spread": float(np.median(others.std(axis=1))),
        "random_std": float(others.std()),
        "margin": float((positives - others.max(axis=1)).mean()),
        "random_margin": float(np.median(np.sqrt(np.square(positives[:, None] - others).mean(axis=1)))),
        "saturation": float(np.exp(shares.max(axis=1)).mean()),
        "random_saturation": random_saturation(scores, temperature),
        "infonce": float(-np.diag(shares).mean()),
        "chance_loss": math.log(size),
    }


def random_saturation(scores: np.ndarray, temperature: float = 1.0) -> float:
    """Mean largest softmax probability over 32 random documents per query; 1/32 if all are equally likely.

    Neither a few odd documents, nor a strong positive, nor N can move it much. The positives stand on the diagonal of
    ``scores`` (N, N) and are left out; the documents of query i are i + o (modulo N) for offsets o spread evenly over
    1 .. N-1. Queries that match none of theirs are left out; 0 if that is all of them.
    """
    from scipy.special import softmax

    size = len(scores)
    offsets = np.unique(np.linspace(1, size - 1, min(RANDOM_DOCUMENTS, size - 1)).round().astype(np.int64))
    drawn = np.take_along_axis(scores, (np.arange(size)[:, None] + offsets) % size, axis=1)
    drawn = drawn[drawn.any(axis=1)]
    return float(softmax(drawn / temperature, axis=1).max(axis=1).mean()) if len(drawn) else 0.0


def density_numbers(weights: np.ndarray) -> dict[str, float]:
    """Of N weight vectors (N, V): mean count of non-zeros, their mean and largest weight, and ``flops``.

    The last is sum_v (mean_i x_iv)^2 (arXiv:2004.05665, eq. 4).
    """
    active = np.count_nonzero(weights)
    return {
        "active_terms": active / len(weights),
        "mean_weight": float(weights.sum(dtype=np.float64) / active) if active else 0.0,
        "max_weight": float(weights.max()),
        "flops": float(np.square(weights.mean(axis=0, dtype=np.float64)).sum()),
    }


def mean_cosine(vectors: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Mean cosine over pairs of non-zero vectors (M, D), of different groups (M,) if given; NaN without any pair."""
    norms = np.linalg.norm(vectors, axis=1)
    present = norms > 0
    unit = vectors[present] / norms[present, None]
    groups = np.arange(len(unit)) if groups is None else groups[present]
    other = groups[:, None] != groups[None, :]
    return float((unit @ unit.T)[other].mean(dtype=np.float64)) if other.any() else math.nan


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation (ties get mean ranks); NaN where a side is constant or has under 3 values."""
    from scipy.stats import spearmanr

    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(spearmanr(x, y).statistic)

# %% [markdown]
# # Assignment: a head, its scale, and an honest comparison
#
# Twenty points, about two hours, after the five notebooks. Write your answers into the cells that say so; the cell below each
# tries some of what is asked. Marking tries the same functions with other numbers, so an answer that fits the shown
# numbers alone gets no points there. Numpy and torch are enough; nothing is downloaded or trained.
#
# | task | points | marked |
# |---|---|---|
# | 1. the FLOPS penalty | 4 | by tests: shown 2, hidden 2 |
# | 2. the smallest k that is enough | 4 | by tests: shown 2, hidden 2 |
# | 3. nDCG of one ranking | 4 | by tests: shown 2, hidden 2 |
# | 4. a randomisation test | 4 | by tests: shown 2, hidden 2 |
# | 5. a log, explained | 4 | by a person: one for each of four things |

# %%
import numpy as np
import torch

# %% [markdown]
# ## 1. The FLOPS penalty
#
# `weights` has a row per text and a column per term. Return the FLOPS penalty of notebook 2, a tensor with one number: over all
# terms, the sum of the squared mean of the term's weights.

# %%
def flops(weights: torch.Tensor) -> torch.Tensor:
    ### BEGIN SOLUTION
    return weights.mean(dim=0).square().sum()
    ### END SOLUTION


# %% points=2
got = flops(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
assert got is not None, "flops returns nothing: is the return there?"
assert torch.is_tensor(got) and got.dim() == 0, "return a tensor with one number"
assert got != 3, "3 is the mean of the squares (L2): take the square of the mean"
assert got != 4, "4 is the square of the sum of the means: square each term's mean first, then sum"
assert abs(got - 2) < 1e-6, f"the means are 1 and 1, so the penalty is 2, yours is {got:.3g}"
leaf = torch.ones(4, 3, requires_grad=True)
flops(leaf).backward()
assert torch.allclose(leaf.grad, torch.full((4, 3), 0.5)), "the gradient of each weight should be twice its term's mean over N"

# %% points=2
### BEGIN HIDDEN TESTS
from pyterrier_rescale.training.regularizers import Flops

for shape in ((1, 7), (5, 3), (16, 200)):
    weights = torch.rand(shape)
    assert torch.allclose(flops(weights), Flops(shape[1])(weights)), "not the package's value on random weights"
### END HIDDEN TESTS

# %% [markdown]
# ## 2. The smallest k that is enough
#
# `scores` has a row per query and a column per document, from a head as it was. With a head divided by k, scores are about
# k * k times smaller. Return the smallest of the numbers `ks` for which the saturation (notebook 2) is at most `limit`, and
# None if it is so for none of them. `ks` may stand in any order.

# %%
def smallest_k(scores: torch.Tensor, ks: list[float], limit: float) -> float | None:
    ### BEGIN SOLUTION
    for k in sorted(ks):
        if (scores / k**2).softmax(dim=1).max(dim=1).values.mean() <= limit:
            return k
    return None
    ### END SOLUTION


# %% points=2
scores = 60 * torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
got = smallest_k(scores, [16, 1, 4, 8, 2], 0.5)
assert got != 16, "16 is the first in the list that is enough, or the largest: look for the smallest"
assert got == 8, f"8 is the smallest that is enough, yours is {got}: are scores divided by k * k?"
assert smallest_k(scores, [1, 2], 0.3) is None, "where no k is enough, return None"

# %% points=2
### BEGIN HIDDEN TESTS
from scipy.special import softmax

for seed in range(5):
    scores = 200 * torch.randn(6, 10, generator=torch.Generator().manual_seed(seed))
    ks, limit = [32, 3, 5, 9, 14, 20], 0.2 + 0.1 * seed
    enough = [k for k in ks if softmax(scores.numpy() / k**2, axis=1).max(axis=1).mean() <= limit]
    assert smallest_k(scores, ks, limit) == min(enough, default=None), f"wrong for other scores, limit {limit:.1f}"
### END HIDDEN TESTS

# %% [markdown]
# ## 3. nDCG of one ranking
#
# `labels` are the judgements of the documents in the order of a ranking, the first document first: 0 is not relevant, 1, 2, ...
# more and more. `judged` are the labels of all judged documents of this topic, in any order. Return nDCG at k:
#
# $$\mathrm{DCG@}k = \sum_{i=1}^{k} \frac{\mathrm{label}_i}{\log_2(1 + i)} \qquad \mathrm{nDCG@}k = \frac{\mathrm{DCG@}k}{\mathrm{DCG@}k \text{ of the best order of } judged}$$
#
# It is 0 where no judged document is relevant.

# %%
def ndcg(labels: list[int], judged: list[int], k: int = 10) -> float:
    ### BEGIN SOLUTION
    def dcg(gains: list[int]) -> float:
        return sum(gain / np.log2(1 + place) for place, gain in enumerate(gains[:k], start=1))

    best = dcg(sorted(judged, reverse=True))
    return dcg(labels) / best if best else 0.0
    ### END SOLUTION


# %% points=2
got = ndcg([0, 1], [1, 0, 1])
assert got is not None, "ndcg returns nothing: is the return there?"
mistakes = {
    0.631: "that is DCG itself, or over the best order of those found: the best order is that of all judged documents",
    0.421: "`judged` may stand in any order: sort it, the largest label first",
    0.442: "the first place is i = 1, whose logarithm is log2(2)",
}
assert abs(got - 0.387) < 1e-3, f"0.631 of 1.631 is 0.387, yours is {got:.3f}: {mistakes.get(round(float(got), 3), 'is the best order that of all judged documents?')}"
assert ndcg([0, 0], [0, 0]) == 0, "where nothing is relevant, return 0"
assert ndcg([2, 1], [1, 2]) == 1, "the best order has 1"
assert abs(ndcg([1, 2], [1, 2]) - 0.860) < 1e-3, "labels 1 and 2 in the wrong order have 0.860: is the gain the label itself, not 2**label - 1?"

# %% points=2
### BEGIN HIDDEN TESTS
import ir_measures

for seed in range(8):
    rng = np.random.default_rng(seed)
    judged = rng.integers(0, 4, 30).tolist()
    found = rng.permutation(30)[:20]
    qrels = [ir_measures.Qrel("q", str(d), label) for d, label in enumerate(judged)]
    run = [ir_measures.ScoredDoc("q", str(d), 20.0 - place) for place, d in enumerate(found)]
    for k in (5, 10):
        right = ir_measures.calc_aggregate([ir_measures.nDCG @ k], qrels, run)[ir_measures.nDCG @ k]
        assert abs(ndcg([judged[d] for d in found], judged, k) - right) < 1e-6, f"not ir_measures' value at k = {k}"
### END HIDDEN TESTS

# %% [markdown]
# ## 4. A randomisation test
#
# Two systems have a score for each topic, `a` and `b`. If they were alike, each topic's difference might as well have had the
# other sign. Draw random signs for all topics, `rounds` times, with `numpy.random.default_rng(seed)`, and return the share
# of rounds whose mean difference is at least as far from zero, on either side, as the real one. The real one counts as a round,
# too: (1 + the number of such rounds) / (1 + rounds). Take a distance that is smaller by 1e-12 only as equally far.

# %%
def randomisation_p(a: np.ndarray, b: np.ndarray, rounds: int = 2000, seed: int = 0) -> float:
    ### BEGIN SOLUTION
    difference = np.asarray(a) - np.asarray(b)
    signs = np.random.default_rng(seed).choice([-1, 1], size=(rounds, len(difference)))
    far = np.abs((signs * difference).mean(axis=1)) >= abs(difference.mean()) - 1e-12
    return float((1 + far.sum()) / (1 + rounds))
    ### END SOLUTION


# %% points=2
same = np.linspace(0, 1, 20)
got = randomisation_p(same, same)
assert got is not None, "randomisation_p returns nothing: is the return there?"
assert got == 1, f"systems that are alike have p = 1, yours is {got:.3g}: is a mean as far as the real one counted, too?"
assert 0 < randomisation_p(same + 0.3, same) < 0.01, "a difference of 0.3 on each of 20 topics is no luck, and p is never 0"
noise = np.random.default_rng(1).normal(0.1, 0.3, 20)
two = randomisation_p(same + noise, same), randomisation_p(same, same + noise)
assert abs(two[0] - two[1]) < 0.02, f"a against b gives {two[0]:.3f}, b against a {two[1]:.3f}: count both sides"

# %% points=2
### BEGIN HIDDEN TESTS
from itertools import product

for seed in range(4):
    rng = np.random.default_rng(seed)
    a, b = rng.random(10), rng.random(10) + 0.15
    means = np.abs([np.mean(np.array(signs) * (a - b)) for signs in product((-1, 1), repeat=10)])
    exact = (means >= abs((a - b).mean()) - 1e-12).mean()
    assert abs(randomisation_p(a, b, 20_000, seed) - exact) < 0.02, "not the value of all 1,024 choices of signs"
assert randomisation_p(a, b, 99, 0) * 100 % 1 < 1e-6, "not (1 + number) / (1 + rounds)"
### END HIDDEN TESTS

# %% [markdown]
# ## 5. A log, explained
#
# A run with 32 documents a batch (ln 32 = 3.5) leaves this log:
#
# | step | loss | score_std | saturation | cosine | active_d |
# |---|---|---|---|---|---|
# | 1 | 210 | 240 | 0.98 | 0.75 | 6,100 |
# | 20 | 48 | 61 | 0.95 | 0.93 | 4,800 |
# | 100 | 4.1 | 2.0 | 0.52 | 0.99 | 900 |
#
# In at most eight sentences: does the run learn to rank? What went wrong at the start, and which two columns show it? What has
# happened by step 100, and which column shows it? What would you change first, and what would that not change?

# %% [markdown] points=4
# ### BEGIN SOLUTION
# One point for each of these, with its reason:
#
# 1. It does not learn: the loss falls a long way and ends at 4.1, above guessing (3.5).
# 2. At the start the scores lie too far apart for the softmax: `score_std` 240 and `saturation` 0.98 (or the loss, 60 times
#    that of guessing), so that there is hardly a useful gradient.
# 3. By step 100 all documents have nearly the same vector: `cosine` 0.99. That is how the loss came down.
# 4. First divide the head, `rescale=16.0` (or `"auto"`, `"calibrated"`). Dividing alone does not change how many terms fire;
#    an offset per term, or the FLOPS penalty, does. A lower learning rate alone gets half a point.
# ### END SOLUTION

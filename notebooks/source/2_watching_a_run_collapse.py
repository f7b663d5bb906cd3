# %% [markdown]
# # 2. Watching a run collapse
#
# Fifteen minutes. You will train the same small model twice, once as it comes (*raw*) and once with its head divided by
# k = 16, watch the first run fail, and say from its log why. (Head, logit, term, to fire: see notebook 1.)

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from transformers.utils import logging

from pyterrier_rescale import load_collection, rescale, small_backbone, train

logging.disable_progress_bar()  # no bar for every model that is loaded

# %%
collection = load_collection("docstrings")
documents = [document["text"] for document in collection.corpus()]
backbone = small_backbone("modernbert", documents, steps=400)
work = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Two runs
#
# SPLADE training shows the model pairs of a query and its document, here 16 at a time (a *batch*). The score of a query
# and a document is the sum over all terms of query weight times document weight. Every query should score its own document
# above the 15 others of the batch: the scores go through a softmax, and the *loss* is -log of the share that the own
# document gets (a loss called InfoNCE). One batch is one *step*. Two runs of 50 steps take under a minute.
#
# A monitor watches each run. `monitor="warn"` lets a collapsing run go on, so that it can be looked at, with its diagnosis
# as a warning; by default the run would be stopped. The other options keep texts and runs short; `ramp_steps` belongs to
# the penalty that is explained below.

# %%
pairs = collection.train_pairs()[::8]  # a docstring's first line, and the rest of it
options = dict(batch_size=16, max_steps=50, learning_rate=5e-4, ramp_steps=50, max_length=32, monitor="warn",
               save_steps=0, verbose=False)
raw = train(backbone, pairs, work / "raw", rescale=None, **options)
divided = train(backbone, pairs, work / "k16", rescale=16.0, **options)

# %% [markdown]
# ## The log
#
# Each run leaves `monitor.csv`, a row per step. Four columns tell most of the story:
#
# - `loss`: who guesses gives each of 16 documents 1/16, a loss of ln 16 = 2.8; below that, something is learnt;
# - `score_std`: the standard deviation of the scores in the batch, that is how far they lie apart;
# - `saturation`: the largest probability of each query's softmax, on average: 1/16 where all scores are equal, 1 where the
#   softmax is certain of one document, right or wrong;
# - `cosine` between the documents of the batch: at 1 all have vectors of the same direction.

# %%
logs = {name: pd.read_csv(work / name / "monitor.csv") for name in ("raw", "k16")}
figure, axes = plt.subplots(1, 4, figsize=(14, 3))
for axis, column in zip(axes, ["loss", "score_std", "saturation", "cosine"]):
    for name, log in logs.items():
        axis.plot(log["step"], log[column], label=name)
    axis.set(title=column, xlabel="step", yscale="log" if column in ("loss", "score_std") else "linear")
axes[0].axhline(np.log(16), color="grey", linestyle=":", label="chance")
axes[0].legend()
ends = {(name, step): log[["loss", "score_std", "saturation", "cosine"]].iloc[row]
        for name, log in logs.items() for step, row in (("first step", 0), ("last step", -1))}
pd.DataFrame(ends).T.round(2)

# %% [markdown] tags=["slide-only"]
# ## The scale of the first scores decides
#
# The same model, data and options; one head as it was, one divided by 16.
#
# ![Loss, saturation and cosine of a raw and a divided run](figures/collapse.svg)

# %% [markdown]
# The raw run starts with scores that lie about a hundred apart. The softmax of such scores is 1 for one document and 0 for
# all others, so it has no gradient that tells a little better from a little worse; what gradient there is comes from
# the wrong documents and is huge. The quickest way down is to make all vectors alike: the cosine goes towards 1, and from
# there nothing ranks anything. Its loss falls a long way, and still ends above chance. The divided run starts at chance
# and goes below.
#
# ### Exercise 1
#
# Compute the saturation of a batch: `scores` has a row per query and a column per document. Each query's softmax is over
# its row; take the largest probability of each, and their mean.

# %%
def saturation(scores: torch.Tensor) -> float:
    ### BEGIN SOLUTION
    return float(scores.softmax(dim=1).max(dim=1).values.mean())
    ### END SOLUTION


# %%
generator = torch.Generator().manual_seed(0)
scores = 100 * torch.randn(16, 16, generator=generator)
try:
    even = saturation(torch.zeros(16, 16))
except (AttributeError, TypeError) as error:
    raise AssertionError(f"{error}. max(dim=...) gives a pair, values and positions: take .values") from None
assert even is not None, "saturation returns nothing yet: write your answer into the cell above, with a return"
assert np.ndim(even) == 0, f"return one number, the mean over the queries, not {np.shape(even)} of them"
assert even > 0, "where all scores are 0 you return 0: is the largest of the softmax taken, or of the scores?"
assert abs(even - 1 / 16) < 1e-6, f"where all scores are equal every document gets 1/16 = 0.0625, yours is {even:.4f}"
# two queries, two documents: the first query is certain of the first document, so is the second query
got = float(saturation(torch.tensor([[9.0, 0.0], [9.0, 0.0]])))
assert abs(got - 1) < 1e-3, f"two queries that are certain of the same document saturate (1), yours is {got:.2f}: " + {
    0.5: "is the softmax over each row, and its largest value taken?"
}.get(round(got, 2), "is it a softmax over each row?")
# the first query is certain, the second knows nothing: (1 + 1/2) / 2
got = float(saturation(torch.tensor([[9.0, 0.0], [0.0, 0.0]])))
assert abs(got - 0.75) < 1e-3, f"one query is certain (1) and one undecided (1/2), so the mean is 0.75, yours is {got:.2f}: is it the mean over the queries?"
assert abs(saturation(scores + 7) - saturation(scores)) < 1e-5, "the same number added to all scores should change nothing"
falling = [saturation(scores / k**2) for k in (1, 2, 4, 8, 16)]
print("exercise 1: right; saturation for k = 1, 2, 4, 8, 16:", ", ".join(f"{value:.2f}" for value in falling))

# %% [markdown]
# Why k squared: query and document weights are both made smaller, and a score is a sum of their products. In the runs
# above k = 16 does not divide `score_std` by 256 but by somewhat more than 100, since the logarithm in the weights dampens
# large logits more than small ones.
#
# ## What the penalty is: FLOPS
#
# The ranking loss does not mind how many terms fire. A search engine does: every term that fires is an entry in the index,
# and a query has to read all entries of its terms. So training adds a penalty to the loss, and the sum of both goes down.

# %% [markdown] tags=["slide"]
# ## The FLOPS penalty
#
# For the N texts of a batch, with $x_{iv}$ the weight of term v in text i (arXiv:2004.05665):
#
# $$\mathrm{FLOPS} = \sum_v \Big( \frac{1}{N} \sum_{i=1}^{N} x_{iv} \Big)^2$$
#
# $$\mathrm{loss} = \mathrm{ranking} + \lambda_q\,\mathrm{FLOPS}(\mathrm{queries}) + \lambda_d\,\mathrm{FLOPS}(\mathrm{documents})$$
#
# The mean of a term says how often and how strongly it fires. Its square is what comparing a query with a document costs: both
# must have the term. A term that fires in all 16 texts of a batch with weight 1 costs 1, one that fires in a single text 1/256. So
# the penalty goes first to terms that fire everywhere, and rare ones are nearly free.

# %% [markdown]
# $\lambda_q$ and $\lambda_d$ say how much of it there is. They grow from zero to their full value in the first `ramp_steps` steps:
# with all of the penalty at once, the cheapest way down would be to let no term fire at all. The log has both factors:

# %%
pd.DataFrame({
    name: {
        "terms that fire per document, first step": log["active_d"].iloc[0],
        "FLOPS of the documents, first step": log["penalty_d"].iloc[0],
        "terms that fire per document, last step": log["active_d"].iloc[-1],
        "FLOPS of the documents, last step": log["penalty_d"].iloc[-1],
        "lambda_d, last step": log["lambda_d"].iloc[-1],
        "share of the penalty in the loss, last step": log["regularizer_share"].iloc[-1],
    }
    for name, log in logs.items()
}).round(4)

# %% [markdown]
# FLOPS has weights in it, squared: a head that is k times too large pays for its scale and not for its terms. That is one
# more reason to mend the scale first.
#
# ## What k cannot change
#
# Dividing makes weights smaller. Which terms fire is another question.
#
# ### Exercise 2
#
# `head(t, W, b)` gives logits: t holds a vector per position, W a row of weights per term, b a number per term (the *bias*).
# Write `divided_head`, which divides **both** W and b by k, and let the checks tell what that does to the set of terms
# that fire.

# %%
def head(t: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return t @ weight.T + bias


def divided_head(t: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, k: float) -> torch.Tensor:
    ### BEGIN SOLUTION
    return head(t, weight / k, bias / k)
    ### END SOLUTION


# %%
t, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((9, 32), (500, 32), (500,)))
plain = head(t, weight, bias)
for k in (2.0, 8.0, 16.0):
    small = divided_head(t, weight, bias, k)
    assert small is not None, "divided_head returns nothing yet: write your answer into the cell above, with a return"
    assert small.shape == plain.shape, f"logits have the shape {tuple(plain.shape)}, yours have {tuple(small.shape)}"
    for wrong, word in (
        (plain, "the logits are what they were: nothing is divided"),
        (plain * k, "the logits are k times as large: divide, do not multiply"),
        (plain / k**2, "the logits are k * k times smaller: something is divided twice"),
        (plain - bias + bias / k, "b is divided and W is not: divide both W and b"),
        ((plain - bias) / k + bias, "W is divided and b is not: divide both W and b"),
        (plain / 16, "the logits are 16 times smaller for every k: your answer does not use `k`"),
    ):
        assert not torch.allclose(small, wrong, atol=1e-4) or torch.allclose(wrong, plain / k), f"k = {k:g}: {word}"
    assert torch.allclose(small * k, plain, atol=1e-4), f"with k = {k:g} every logit should be {k:g} times smaller: divide both W and b"
    assert torch.equal(small > 0, plain > 0), "exactly the same terms should fire as before"
print("exercise 2: right; the same terms fire for every k: how many fire (the density) does not depend on it")

# %% [markdown]
# The same on the real model, with the package's `rescale`. By default it divides W alone, as the paper does
# (arXiv:2606.18811); then b, left as it was, decides about more terms than before. With `bias=True` it divides both, as
# here. Either way, *how many* terms fire is not what k is for: that is what an offset does, a number added to a term's
# logits (notebook 3).

# %%
from transformers import AutoModelForMaskedLM, AutoTokenizer

from pyterrier_rescale import Splade

model, tokenizer = AutoModelForMaskedLM.from_pretrained(backbone), AutoTokenizer.from_pretrained(backbone)
for k in (1, 4, 16):
    one = rescale(model, k, bias=True) if k > 1 else model
    vectors = Splade(one, tokenizer=tokenizer).encode_docs(documents[:32])
    print(f"k={k:2}: {vectors.nnz / 32:6.0f} of {vectors.shape[1]} terms fire per document, mean weight {vectors.data.mean():.3f}")

# %% [markdown] tags=["slide"]
# ## A run that collapses: what to remember
#
# A run collapses when its first scores are so far apart that the softmax has no gradient left.
# The log shows it within a few steps. Dividing the head mends the scale; it does not mend density. The FLOPS penalty thins
# the vectors out during training, and sees the scale, too.

# %% [markdown]
# # 2. Watching a run collapse
#
# Fifteen minutes. You will train the same small model twice, once as it comes (*raw*) and once with its head divided by
# k = 16, watch the first run fail, and say from its log why. (Head, logit, term, to fire: see notebook 1.)

# %% [markdown]
# On Colab, run this cell first; elsewhere it does nothing.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("pyterrier_rescale") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "./pyterrier_rescale"], check=True)

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
# as a warning; by default the run would be stopped. The other options keep texts and runs short; `ramp_steps` is how
# long the penalty for firing terms takes to come to its full weight.

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
even, wide = saturation(torch.zeros(16, 16)), saturation(scores)
assert abs(even - 1 / 16) < 1e-6, f"where all scores are equal every document gets 1/16 = 0.0625, yours is {even:.4f}"
assert wide > 0.95, f"scores that lie hundreds apart saturate (nearly 1), yours is {wide:.2f}: the largest of each row's softmax?"
assert abs(saturation(torch.tensor([[9.0, 0.0], [9.0, 0.0]])) - 1) < 1e-3, "two queries that prefer the same document are certain, too: is the softmax over each row?"
assert abs(saturation(scores + 7) - wide) < 1e-5, "the same number added to all scores should change nothing: is it a softmax?"
falling = [saturation(scores / k**2) for k in (1, 2, 4, 8, 16)]
assert all(a > b for a, b in zip(falling, falling[1:])), f"the smaller the scores, the less saturated; yours: {np.round(falling, 3)}: the mean over the queries?"
print("exercise 1: right; saturation for k = 1, 2, 4, 8, 16:", ", ".join(f"{value:.2f}" for value in falling))

# %% [markdown]
# Why k squared: query and document weights are both made smaller, and a score is a sum of their products. In the runs
# above k = 16 does not divide `score_std` by 256 but by somewhat more than 100, since the logarithm in the weights dampens
# large logits more than small ones.
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
    assert torch.allclose(small * k, plain, atol=1e-4), (
        f"with k = {k:g} every logit should be {k:g} times smaller, some are not: are both W and b divided?"
    )
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

# %% [markdown]
# **What to remember.** A run collapses when its first scores are so far apart that the softmax has no gradient left.
# The log shows it within a few steps. Dividing the head mends the scale; it does not mend density.

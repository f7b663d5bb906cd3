# %% [markdown]
# # 2. Watching a run collapse
#
# Fifteen minutes. You will train the same small model twice, once as it comes and once with its head divided by 16,
# watch the first run die, and say from its log why.

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

from pyterrier_rescale import load_collection, rescale, small_backbone, train

# %%
collection = load_collection("docstrings")
documents = [document["text"] for document in collection.corpus()]
backbone = small_backbone("modernbert", documents, steps=400)
work = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Two runs
#
# SPLADE training shows the model queries with their documents. In a batch, every query should score its own document
# above the others'; the loss is a softmax over these scores. `monitor="warn"` lets a collapsing run go on, so that it
# can be watched; by default it would be stopped with a diagnosis.

# %%
pairs = collection.train_pairs()[::8]  # a docstring's first line, and the rest of it
options = dict(batch_size=16, max_steps=50, learning_rate=5e-4, ramp_steps=50, max_length=32, monitor="warn",
               save_steps=0, verbose=False)
raw = train(backbone, pairs, work / "raw", rescale=None, **options)
divided = train(backbone, pairs, work / "k16", rescale=16.0, **options)

# %% [markdown]
# ## The log
#
# Each run leaves `monitor.csv`, a row per step. Four columns tell most of the story: the *loss* (chance is
# ln 16 = 2.8), the *standard deviation of the scores*, the *saturation* (the mean largest probability of the softmax:
# at 1 it is certain of a document, right or wrong), and the *cosine* between the documents of a batch (at 1 all get
# the same vector).

# %%
logs = {name: pd.read_csv(work / name / "monitor.csv") for name in ("raw", "k16")}
figure, axes = plt.subplots(1, 4, figsize=(14, 3))
for axis, column in zip(axes, ["loss", "score_std", "saturation", "cosine"]):
    for name, log in logs.items():
        axis.plot(log["step"], log[column], label=name)
    axis.set(title=column, xlabel="step", yscale="log" if column in ("loss", "score_std") else "linear")
axes[0].legend()
print({name: log[["loss", "score_std", "saturation", "cosine"]].iloc[[0, -1]].round(2).values.tolist() for name, log in logs.items()})

# %% [markdown]
# The raw run starts with scores that differ by hundreds. The softmax of such scores is 1 for one document and 0 for all
# others, so it has no gradient that tells a little better from a little worse; what gradient there is comes from the
# wrong documents and is huge. The quickest way down is to make all vectors alike: the cosine goes to 1, and from there
# nothing ranks anything.
#
# ### Exercise 1
#
# Compute the saturation of a batch: `scores` has a row per query and a column per document.

# %%
def saturation(scores: torch.Tensor) -> float:
    ### BEGIN SOLUTION
    return float(scores.softmax(dim=1).max(dim=1).values.mean())
    ### END SOLUTION


# %%
generator = torch.Generator().manual_seed(0)
scores = 100 * torch.randn(16, 16, generator=generator)
assert saturation(scores) > 0.95, "scores that differ by hundreds saturate"
assert abs(saturation(torch.zeros(16, 16)) - 1 / 16) < 1e-6, "equal scores: every document gets its even share"
assert abs(saturation(scores + 7) - saturation(scores)) < 1e-5, "a common offset of the scores changes nothing"
falling = [saturation(scores / k**2) for k in (1, 2, 4, 8, 16)]
assert all(a > b for a, b in zip(falling, falling[1:])), "the smaller the scores, the less saturated"
print("exercise 1: right; saturation for k = 1, 2, 4, 8, 16:", np.round(falling, 2))

# %% [markdown]
# Query and document weights are both divided, so scores fall with about k squared (somewhat less, since the logarithm in
# the weights dampens): k = 16 brings 700 down to about 6.
#
# ## What k cannot change
#
# Dividing makes weights smaller. Which terms fire is another question.
#
# ### Exercise 2
#
# `head(t, W, b)` gives logits. Write `divided_head`, which divides **both** W and b by k, and let the checks tell what
# that does to the set of terms that fire.

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
    assert torch.allclose(small * k, plain, atol=1e-4), "all logits are k times smaller"
    assert torch.equal(small > 0, plain > 0), "and exactly the same terms fire: density is blind to k"
print("exercise 2: right")

# %% [markdown]
# The package divides W alone by default, as the paper does (arXiv:2606.18811); then b, left as it was, decides about
# more terms than before. `rescale(model, k, bias=True)` divides both. Either way, *how many* terms fire is not what k is
# for: that is the offset's (notebook 3).

# %%
from transformers import AutoModelForMaskedLM, AutoTokenizer

from pyterrier_rescale import Splade

model, tokenizer = AutoModelForMaskedLM.from_pretrained(backbone), AutoTokenizer.from_pretrained(backbone)
for k in (1, 4, 16):
    one = rescale(model, k, bias=True) if k > 1 else model
    vectors = Splade(one, tokenizer=tokenizer).encode_docs(documents[:32])
    print(f"k={k:2}: {vectors.nnz / 32:6.0f} active terms per document, mean weight {vectors.data.mean():.3f}")

# %% [markdown]
# **What to remember.** A run collapses when its first scores are so far apart that the softmax has no gradient left.
# The log shows it within a few steps. Dividing the head mends the scale; it does not mend density.

# %% [markdown]
# # 1. A masked LM's head is a bag of words
#
# Fifteen minutes. You will turn the output of a masked language model into a sparse vector by hand, see that the
# vector says what a text is about, and find out why the numbers' size and level matter to a search engine
# although they never mattered to the language model.
#
# Everything runs on a laptop, without a network once the package is installed.

# %% [markdown]
# On Colab, run this cell first; elsewhere the package is installed already and the cell does nothing.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("pyterrier_rescale") is None:
    # on Colab: upload or clone the project first, then name its folder here
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "./pyterrier_rescale"], check=True)

# %%
import numpy as np
import torch

from pyterrier_rescale import Splade, load_collection, small_backbone

# %% [markdown]
# ## A language model in half a minute
#
# `docstrings` is a collection of real English on every machine: what the installed Python packages say about their
# functions. A small masked LM (3 layers, 128 dimensions) is trained on it here, once; later calls find it in a cache.

# %%
collection = load_collection("docstrings")
documents = [document["text"] for document in collection.corpus()]
print(f"{len(documents):,} documents, for example:\n{documents[100][:200]}")
folder = small_backbone("modernbert", documents, steps=400)

# %% [markdown]
# ## From a text to logits
#
# A masked LM was trained to fill gaps: at every position it gives one number, a *logit*, to every token of its
# vocabulary. Usually one looks at the gap only. Here there is no gap, and all positions are looked at.

# %%
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForMaskedLM.from_pretrained(folder).eval()
text = "parse the arguments of the command line"
inputs = tokenizer(text, return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits[0]
print("tokens:", tokenizer.convert_ids_to_tokens(inputs["input_ids"][0]))
print("logits:", tuple(logits.shape), "= (positions, vocabulary)")

# %% [markdown]
# ## From logits to one sparse vector
#
# SPLADE (arXiv:2109.10086) keeps for every term its largest logit over the positions, drops what is negative, and
# dampens what is left:
#
# $$x_v = \log(1 + \mathrm{relu}(\max_i z_{iv}))$$
#
# The result has one weight per vocabulary term: a bag of words, with words that the text itself need not hold.
#
# ### Exercise 1
#
# Write that formula. `logits` has the shape (positions, vocabulary); return a vector with one weight per term.

# %%
def splade_weights(logits: torch.Tensor) -> torch.Tensor:
    ### BEGIN SOLUTION
    return torch.log1p(torch.relu(logits.max(dim=0).values))
    ### END SOLUTION


# %% [markdown]
# The checks hold for every text and model: they are properties of the formula, not numbers to hit.

# %%
weights = splade_weights(logits)
assert weights.shape == (logits.shape[1],), "one weight per vocabulary term"
assert (weights >= 0).all(), "no weight is negative"
assert torch.equal(weights > 0, (logits > 0).any(dim=0)), "a term fires where one of its logits is above zero"
package = Splade(model, tokenizer=tokenizer).encode_docs([text]).toarray()[0]
assert np.allclose(weights, package, atol=1e-4), "the package computes the same"
# only the position of a term's largest logit can change its weight
leaf = logits.clone().requires_grad_()
splade_weights(leaf).sum().backward()
touched = leaf.grad != 0
assert (touched.sum(dim=0) <= 1).all(), "a term's gradient touches one position at most"
assert torch.equal(touched.any(dim=0), weights > 0), "and only where the term fires"
print("exercise 1: right")

# %% [markdown]
# ## What the vector says
#
# The heaviest terms, and how many fire at all:

# %%
splade = Splade(model, tokenizer=tokenizer)
print(splade.top_terms(text))
print(f"{int((weights > 0).sum()):,} of {len(weights):,} terms fire")

# %% [markdown]
# The heaviest terms are no good yet, and far too many fire. That is no accident, and no fault of the language model:
# nothing in its training ever asked for a *level*.
#
# ## Softmax does not see what relu sees
#
# The language model was trained through a softmax. Add the same number to all logits of a position, and the
# probabilities stay as they are:

# %%
shifted = logits - 5.0
print("largest change of a probability:", (logits.softmax(-1) - shifted.softmax(-1)).abs().max().item())
print("terms that fire:", int((splade_weights(logits) > 0).sum()), "->", int((splade_weights(shifted) > 0).sum()))

# %% [markdown]
# So after pretraining, the level of the logits is where chance has left it; relu cuts at zero all the same. The same
# goes for the *scale*: twice as large logits make a sharper guess, which hardly hurts a language model, but the scores of
# a search engine are sums of products of weights, and their size decides whether training can start (notebook 2).
#
# ### Exercise 2
#
# Find the number `c` to subtract from all logits so that a share `share` of the vocabulary fires. You are given
# `pooled`, the largest logit of every term.

# %%
def level_for(pooled: torch.Tensor, share: float) -> float:
    ### BEGIN SOLUTION
    return float(torch.quantile(pooled, 1 - share))
    ### END SOLUTION


# %%
pooled = logits.max(dim=0).values
for share in (0.5, 0.1, 0.02):
    c = level_for(pooled, share)
    fires = float((splade_weights(logits - c) > 0).float().mean())
    assert abs(fires - share) < 0.005, f"asked for {share:.0%} of the terms, got {fires:.1%}"
    assert torch.allclose((logits - c).softmax(-1), logits.softmax(-1), atol=1e-5), "the language model sees nothing of it"
assert abs(level_for(pooled + 3, 0.1) - level_for(pooled, 0.1) - 3) < 1e-4, "a common level is moved, nothing else"
print("exercise 2: right")

# %% [markdown]
# One number for all terms is the simplest way. Common words have higher levels than rare ones, so the package measures
# one number *per term* (notebook 3). With it, and before any training:

# %%
from pyterrier_rescale import calibrate

calibrated = calibrate(model, documents[:256], tokenizer=tokenizer).apply(model)
print(Splade(calibrated, tokenizer=tokenizer).top_terms(text))

# %% [markdown]
# **What to remember.** The head of a masked LM gives every text a weight per vocabulary term. Pretraining fixes neither
# the level nor, as far as scores go, the scale of these numbers. Both have to be set before SPLADE training begins.

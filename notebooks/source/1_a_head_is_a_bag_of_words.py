# %% [markdown]
# # 1. A masked LM's head is a bag of words
#
# Fifteen minutes. You will turn the output of a masked language model into a sparse vector by hand, see that the
# vector says what a text is about, and find out why the numbers' size and level matter to a search engine
# although they never mattered to the language model.
#
# The words you need:
#
# - A **masked language model** (BERT and its kin) is a neural network that was trained to fill gaps in texts. It cuts a
#   text into *tokens*, words or pieces of words, of a fixed **vocabulary**.
# - Its **head** is its last layer. At every position of the text it gives one number to every token of the vocabulary,
#   a **logit**: the larger, the better the token would fit there.
# - A **search engine** keeps, for each *term*, the list of documents that hold it, each with a weight. It is quick
#   because a document holds few terms: its vector, one number per term of the vocabulary, is **sparse**, nearly all zeros.
# - **SPLADE** makes one from the other: its terms are the tokens of the vocabulary, its weights come from the head. A term
#   with a weight above zero is said to *fire*.
#
# Everything runs on a laptop, without a network once the package is installed. Run the cells in order (Shift+Enter).

# %%
import numpy as np
import torch
from transformers.utils import logging

from pyterrier_rescale import Splade, load_collection, small_backbone

logging.disable_progress_bar()  # no bar for every model that is loaded

# %% [markdown]
# ## A language model of your own
#
# `docstrings` is a collection of real English on every machine: what the installed Python packages say about their
# functions. A small masked LM (3 layers, 128 dimensions, a vocabulary of 8,000) is trained on it here, once, in about a
# minute; later calls find it in a cache. It has the architecture of ModernBERT, in small.

# %%
collection = load_collection("docstrings")
documents = [document["text"] for document in collection.corpus()]
print(f"{len(documents):,} documents, for example:\n{documents[100][:200]}")
folder = small_backbone("modernbert", documents, steps=400)

# %% [markdown]
# ## From a text to logits
#
# Usually one looks at the logits of a gap only. Here there is no gap, and all positions are looked at.

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
# `Ġ` is how this tokenizer writes the blank before a word. `[CLS]` and `[SEP]` are added before and behind every text.

# %% [markdown] tags=["slide"]
# ## From logits to one sparse vector
#
# SPLADE (arXiv:2109.10086) keeps for every term v its largest logit over the positions i, drops what is negative (relu
# makes it zero), and dampens what is left by a logarithm:
#
# $$x_v = \log(1 + \mathrm{relu}(\max_i z_{iv}))$$
#
# $z_{iv}$ is the logit of term v at position i. The result has one weight per term of the vocabulary: a bag of words,
# with words that the text itself need not hold.

# %% [markdown]
# ### Exercise 1
#
# Write that formula. `logits` has the shape (positions, vocabulary); return a tensor with one weight per term. You need
# the maximum over a dimension, `torch.relu` and `torch.log1p` (which is log(1 + x)).

# %%
def splade_weights(logits: torch.Tensor) -> torch.Tensor:
    ### BEGIN SOLUTION
    return torch.log1p(torch.relu(logits.max(dim=0).values))
    ### END SOLUTION


# %% [markdown]
# The check tries your function on small tables of logits whose result one can compute by hand, and on the real ones. If it
# fails, the last line of its message says what is wrong.

# %%
try:
    weights = splade_weights(logits)
except TypeError as error:
    raise AssertionError(f"{error}. max(dim=...) gives a pair, values and positions: take .values") from None
assert weights is not None, "splade_weights returns nothing yet: write your answer into the cell above, with a return"
assert isinstance(weights, torch.Tensor), (
    f"return a tensor, not {type(weights).__name__}; max(dim=...) gives a pair, values and positions: take .values"
)
assert weights.shape == (logits.shape[1],), (
    f"one weight per term would have the shape {(logits.shape[1],)}, yours has {tuple(weights.shape)}: "
    "over which dimension do you take the maximum?"
)
# one term at three positions, its logits -1, 3 and 1: log(1 + 3) = 1.386
got = splade_weights(torch.tensor([[-1.0], [3.0], [1.0]])).item()
mistakes = {
    3.0: "that is the maximum itself: the logarithm is missing",
    1.099: "that is log(3); torch.log1p(x) is log(1 + x), and log of a term that does not fire would be minus infinity",
    0.693: "that is log(1 + 1), and 1 is the mean over the positions: take the maximum",
    2.079: "that is a sum over the positions: take the maximum",
    2.0: "that is a logarithm to the base 2: take the natural one, torch.log1p",
}
assert abs(got - 1.386) < 1e-3, f"the logits -1, 3, 1 give {got:.3f}, not 1.386: " + mistakes.get(round(got, 3), "is it the formula?")
assert splade_weights(torch.tensor([[-2.0], [-0.5]])).item() == 0, "the logits -2 and -0.5 should give 0: torch.relu makes what is negative zero"
package = Splade(model, tokenizer=tokenizer).encode_docs([text]).toarray()[0]
assert np.allclose(weights, package, atol=1e-4), "on the real text your weights are not those of the package: the formula holds for every term"
# only the position of a term's largest logit can change its weight
leaf = logits.clone().requires_grad_()
splade_weights(leaf).sum().backward()
assert ((leaf.grad != 0).sum(dim=0) <= 1).all(), "a term's gradient should touch one position at most: that of its maximum"
print("exercise 1: right")

# %% [markdown]
# ## What the vector says
#
# The heaviest terms with their weights, and how many fire at all. The package shows terms as words; `##` stands before a
# token that continues a word, or is no word.

# %%
def show(terms: list[tuple[str, float]]) -> None:
    print(", ".join(f"{term} {weight:.2f}" for term, weight in terms))


show(Splade(model, tokenizer=tokenizer).top_terms(text))
print(f"{int((logits > 0).any(dim=0).sum()):,} of {logits.shape[1]:,} terms fire")

# %% [markdown]
# The heaviest terms are no good yet: words that stand in every text. And far too many fire: a text of seven words should
# not be found by a thousand others. That is no accident, and no fault of the language model: nothing in its training ever
# asked for a *level*, a height of the logits above which a term counts.
#
# ## Softmax does not see what relu sees
#
# The language model was trained through a softmax, which turns the logits of a position into probabilities. Add the same
# number to all of them, and the probabilities stay as they are, up to rounding:

# %%
shifted = logits - 5.0
change = (logits.softmax(-1) - shifted.softmax(-1)).abs().max().item()
print(f"largest change of a probability: {change:.0e}")
print("terms that fire:", *(int((z > 0).any(dim=0).sum()) for z in (logits, shifted)), "(before and after)")

# %% [markdown] tags=["slide-only"]
# ## Softmax does not see what relu sees
#
# Add the same number to all logits: probabilities stay, other terms fire. Pretraining leaves the level to chance.
#
# ![Terms that fire per document, raw and calibrated](figures/density.svg)

# %% [markdown]
# So after pretraining, the level of the logits is where chance has left it; relu cuts at zero all the same. The same
# goes for the *scale*: twice as large logits make a sharper guess, which hardly hurts a language model, but the score of
# a document is a sum of products of query and document weights, and its size decides whether training can start
# (notebook 2).
#
# ### Exercise 2
#
# Find the number `c` to subtract from all logits so that a share `share` of the vocabulary fires. You are given
# `pooled`, the largest logit of every term. (Of ten terms, three fire if `c` lies just below the third largest. `torch.quantile`
# may help.)

# %%
def level_for(pooled: torch.Tensor, share: float) -> float:
    ### BEGIN SOLUTION
    return float(torch.quantile(pooled, 1 - share))
    ### END SOLUTION


# %%
pooled = logits.max(dim=0).values
for share in (0.5, 0.1, 0.02):
    c = level_for(pooled, share)
    assert c is not None, "level_for returns nothing yet: write your answer into the cell above, with a return"
    assert np.ndim(c) == 0, f"c should be one number, yours has the shape {tuple(np.shape(c))}"
    fires = float((pooled > c).float().mean())
    wrong = f"asked for {share:.0%} of the terms, {fires:.1%} fire with c = {float(c):.3g}"
    assert share == 0.5 or abs(fires - (1 - share)) > 0.01, f"{wrong}: that is the other side; `share` lies above c, so 1 - share below"
    assert c != level_for(pooled, share / 2), f"{wrong}, and as many for half of that share: your answer does not use `share`"
    assert abs(fires - share) < 0.005, f"{wrong}: c is a quantile of the values, which need not be spread evenly"
assert abs(level_for(pooled + 3, 0.1) - level_for(pooled, 0.1) - 3) < 1e-4, "where all logits are larger by 3, c should be, too"
print("exercise 2: right")

# %% [markdown]
# One number for all terms is the simplest way. Common words have higher levels than rare ones, so the package measures
# one number *per term* over a few hundred texts (notebook 3). With it, before any training, the heaviest terms are:

# %%
from pyterrier_rescale import calibrate

calibrated = calibrate(model, documents[:256], tokenizer=tokenizer).apply(model)
show(Splade(calibrated, tokenizer=tokenizer).top_terms(text))

# %% [markdown]
# Words of the text come first now; behind them stand others that the model adds (*expansions*), good and bad ones: the
# model is small, and nobody has trained it to search yet.

# %% [markdown] tags=["slide"]
# ## A head is a bag of words: what to remember
#
# The head of a masked LM gives every text a weight per vocabulary term. Pretraining fixes neither
# the level nor, as far as scores go, the scale of these numbers. Both have to be set before SPLADE training begins.

# %% [markdown]
# # 3. Measuring instead of guessing
#
# Fifteen minutes. k = 16 is a constant from a paper. Here you measure what a head needs: how far it has to be divided,
# and at which level each term should begin to fire. Then you ask the uncomfortable question: is that more than IDF?
# (Head, logit, term, to fire: see notebook 1; saturation: notebook 2.)

# %% [markdown]
# On Colab, run this cell first; elsewhere it does nothing.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("pyterrier_rescale") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "./pyterrier_rescale"], check=True)

# %%
import textwrap

import numpy as np
from scipy.stats import spearmanr
from transformers import AutoModelForMaskedLM, AutoTokenizer
from transformers.utils import logging

from pyterrier_rescale import LexicalEncoder, Splade, audit, calibrate, load_collection, small_backbone

logging.disable_progress_bar()  # no bar for every model that is loaded

# %%
collection = load_collection("docstrings")
documents = [document["text"] for document in collection.corpus()]
backbone = small_backbone("modernbert", documents, steps=400)
model, tokenizer = AutoModelForMaskedLM.from_pretrained(backbone), AutoTokenizer.from_pretrained(backbone)
sample = documents[::40][:256]

# %% [markdown]
# ## The audit
#
# `audit` runs the head over some texts and names what is wrong. It knows four diseases, which all show as bad training;
# only the first is cured by k:
#
# - *scale mismatch*: scores lie too far apart for the softmax (notebook 2), or too close together;
# - *dense start*: too many terms fire in every text; *dead*: none does;
# - *sink*: the largest logits of most terms stand at special positions such as [CLS], which every text has;
# - *anisotropic*: the vectors of all texts point the same way, before any head.

# %%
report = audit(model, sample, tokenizer=tokenizer)
print(textwrap.fill(report.verdict, 110))
report.plot()

# %% [markdown]
# Two diseases, each with its remedy. InfoNCE is the loss of notebook 2, ln B that of guessing one of B documents;
# *temperature* is what scores are divided by before the softmax, 1 here.
#
# The figure from left to right. The lengths of W's rows, a row per term, beside the mean of a model that is known to be too
# large (dotted). The logits, at positions of words and at special ones: what is right of zero fires. How far the scores
# of one query lie apart, with the saturation in brackets; red is too much. Last, the shares behind the other diseases, each with a bar at the limit.

# %% [markdown]
# ## A level per term
#
# Take the largest logit of every term in every text (the *pooled* logits: a row per text, a column per term). A term of
# use should fire in a few texts, say in 3%. So its level, the height above which it is to fire, is a quantile of its column.
#
# ### Exercise 1
#
# Compute the shift of each term: what has to be subtracted from a column of `pooled` so that the term fires (is above
# zero) in a share `rate` of the texts. (`np.quantile(x, 0.97, axis=...)` is a number that 97% of the values lie below.)

# %%
def term_shifts(pooled: np.ndarray, rate: float) -> np.ndarray:
    ### BEGIN SOLUTION
    return np.quantile(pooled, 1 - rate, axis=0)
    ### END SOLUTION


# %%
rng = np.random.default_rng(0)
pooled = rng.normal(size=(400, 300)) * rng.uniform(0.5, 4, 300) + rng.normal(size=300) * 10
shifts = term_shifts(pooled, 0.03)
assert np.shape(shifts) == (300,), (
    f"{pooled.shape[0]} texts and {pooled.shape[1]} terms need one shift per term, the shape (300,), yours is {np.shape(shifts)}: along which axis?"
)
fires = (pooled - shifts > 0).mean(axis=0)
assert np.abs(fires - 0.03).max() <= 1 / 400, (
    f"every term should fire in 3% of the texts, yours fire in {fires.min():.0%} to {fires.max():.0%}: a quantile of each column?"
)
assert np.allclose(term_shifts(pooled + 5, 0.03), shifts + 5), "5 added to all logits should be subtracted again"
assert np.allclose(term_shifts(pooled / 8, 0.03), shifts / 8), "logits divided by 8 should have shifts divided by 8"
assert (term_shifts(pooled, 0.01) >= shifts).all(), "a term that is to fire more rarely should get a higher level"
print("exercise 1: right")

# %% [markdown]
# `calibrate` does that with the real logits, and then looks for the k at which the softmax over random documents is
# neither saturated nor flat. (It also subtracts the mean row from W, which is the same for all terms: softmax does not see
# it either.) The shift is added to the term's bias, so it is negative where a term is to fire more rarely.

# %%
calibration = calibrate(model, sample, tokenizer=tokenizer)
print(f"k = {calibration.k:.2f}; shifts from {calibration.bias_shift.min():.1f} to {calibration.bias_shift.max():.1f}")
calibration.plot()

# %% [markdown]
# The audit suggested a larger k: for the head as it was. Once few terms fire, and only as far as they rise above their
# level, scores are sums of fewer and smaller products, so less division is left to do, here little or none (k = 1
# changes nothing; `calibrate` never makes a head larger). The figure shows what was tried: for each k, the saturation with
# what was aimed at (dashed), the loss of notebook 2 with its value for guessing (dotted), and the terms that fire, which
# no k changes. The vertical line is the k that was chosen.

# %%
raw = Splade(model, tokenizer=tokenizer)
calibrated = Splade(calibration.apply(model), tokenizer=tokenizer)
text = sample[3]
print(text[:150], "\n")
for name, splade in {"raw": raw, "calibrated": calibrated}.items():
    print(f"{name}: {splade.encode_docs([text]).nnz} terms fire, the heaviest:", ", ".join(term for term, _ in splade.top_terms(text)))

# %% [markdown]
# ## Is it just IDF?
#
# A term's level follows how common the term is. So does IDF, the inverse document frequency of 1972: the logarithm of the
# number of documents over the number that hold the term, large for rare terms. It needs no language model at all. The
# rank correlation says how far two orders agree: 1 is the same order, -1 the opposite, 0 none.

# %%
ids = [set(row) for row in tokenizer(documents[:3000], truncation=True, max_length=96)["input_ids"]]
frequency = np.zeros(len(tokenizer))
for row in ids:
    frequency[list(row)] += 1
seen = frequency > 0
idf = np.log((len(ids) + 1) / frequency[seen])
levels = -calibration.bias_shift[: len(tokenizer)][seen]
print("rank correlation of level and IDF:", round(spearmanr(levels, idf).statistic, 2))

# %% [markdown]
# Negative: the rarer a term, the lower its level. So part of what calibration finds is IDF, in another coat, and an honest comparison has the model-free row beside it:
# `LexicalEncoder` weighs the text's own word pieces by IDF, and is used like a `Splade`.
#
# ### Exercise 2
#
# A score is a sum over shared terms. Given two sparse vectors as dicts {term: weight}, return the contribution of every
# shared term, as a dict: the product of its two weights.

# %%
def contributions(query: dict[str, float], document: dict[str, float]) -> dict[str, float]:
    ### BEGIN SOLUTION
    return {term: query[term] * document[term] for term in query.keys() & document.keys()}
    ### END SOLUTION


# %%
query, text = "open a file for reading", "open(file) returns a stream that reads the file"
lexical = LexicalEncoder(tokenizer, idf_from=documents)
for encoder in (lexical, calibrated):
    sides = []
    for row in (encoder.encode_queries([query]), encoder.encode_docs([text])):
        sides.append(dict(zip(map(str, row.indices), row.data.astype(float))))
    parts = contributions(*sides)
    assert isinstance(parts, dict), f"return a dict, not {type(parts).__name__}"
    score = float((encoder.encode_queries([query]) @ encoder.encode_docs([text]).T).toarray()[0, 0])
    assert set(parts) == set(sides[0]) & set(sides[1]), (
        f"{len(set(sides[0]) & set(sides[1]))} terms stand on both sides, yours are {len(parts)}: all of these, and no others"
    )
    assert np.isclose(sum(parts.values()), score, rtol=1e-4), (
        f"the contributions should sum to the score, {score:.3f}; yours sum to {sum(parts.values()):.3f}: query weight times document weight?"
    )
    assert parts == contributions(sides[1], sides[0]), "query and document should be able to change places"
assert contributions({"a": 1.0}, {"b": 1.0}) == {}, "where no term is shared, the dict should be empty"
print("exercise 2: right")

# %% [markdown]
# `splade.explain(query, text)` shows them, for the calibrated head, and marks what the model added to either side (an
# *expansion*: the term stands in no text there). This small, untrained model adds much that is of no use.

# %%
calibrated.explain(query, text)

# %% [markdown]
# **What to remember.** Scale and level can be measured in one pass over a few hundred unlabelled texts. A calibrated head
# ranks before any training. Before you credit the language model for it, compare with word pieces times IDF.

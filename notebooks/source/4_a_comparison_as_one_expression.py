# %% [markdown]
# # 4. A comparison as one expression
#
# Fifteen minutes. Four systems, one collection, one table: how to compare retrieval systems in PyTerrier so that a
# colleague believes it. With significance, with the cost beside the effectiveness, and with BM25 in the table.

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

from pyterrier_rescale import LexicalEncoder, Splade, calibrate, load_collection, rescale, small_backbone, systems

# %% [markdown]
# ## Data and encoders
#
# 600 documents and 50 topics: a topic is the first line of a docstring, its one relevant document is the rest. The
# encoders are one backbone with its head raw, divided and calibrated, all untrained (training them is notebook 2), and
# word pieces times IDF, which needs no model at all.

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
# then retriever. BM25 is one more. (`engine="exact"` needs no Java; BM25 does, and the package brings one.)

# %%
work = Path(tempfile.mkdtemp())
pipelines = systems(encoders, collection, work / "indexes", engine="exact", num_results=100)
bm25_index = pt.terrier.TerrierIndex(work / "bm25")
bm25_index.indexer(meta={"docno": 200}).index({"docno": d["docno"], "text": d["text"]} for d in collection.corpus())
pipelines["BM25"] = pt.rewrite.tokenise() >> bm25_index.bm25(num_results=100)

# %% [markdown]
# ## The experiment

# %%
topics, qrels = collection.topics(), collection.qrels()
table = pt.Experiment(
    list(pipelines.values()), topics, qrels, ["ndcg_cut_10", "recip_rank"], names=list(pipelines),
    baseline=list(pipelines).index("raw"), correction="holm",
)
table["terms/doc"] = [
    round(encoders[name].encode_docs([d["text"] for d in collection.corpus()][:200]).nnz / 200) if name in encoders else None
    for name in table["name"]
]
table[["name", "ndcg_cut_10", "recip_rank", "ndcg_cut_10 p-value corrected", "terms/doc"]].round(3)

# %% [markdown]
# Read it from the right: how many terms does a system pay per document, is the difference to `raw` more than the topics'
# luck, and is it ahead of the rows that need no language model?
#
# ### Exercise 1
#
# Four tests were made, and one in twenty is "significant" by chance. Holm's correction takes that into account: sort the
# p-values; multiply the smallest by the number of tests n, the next by n - 1, and so on; never let a corrected value
# fall below an earlier one; cap at 1.

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
    got = holm(p)
    assert all(a >= b for a, b in zip(got, p)), "a correction never makes a p-value smaller"
    assert all(a <= 1 for a in got), "nor larger than 1"
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(got)[order]) >= 0).all(), "the order of the p-values stays"
    assert np.isclose(min(got), min(1, 6 * min(p))), "the smallest is multiplied by the number of tests"
assert holm([0.02]) == [0.02], "one test needs no correction"
print("exercise 1: right")

# %% [markdown]
# ## Fusion with BM25
#
# In PyTerrier, pipelines are values: `a + b` adds scores, `0.3 * a` scales them, `a | b` unites result sets. Scores of
# different systems live on different scales, so they are normalised first.
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
assert best(mixture(one, other, 1.0)) == best(one), "all weight on the first: its ranking"
assert best(mixture(one, other, 0.0)) == best(other), "no weight on the first: the second's ranking"
both = mixture(one, other, 0.5)(few)
assert both["score"].between(-1e-6, 1 + 1e-6).all(), "a mixture of scores in 0..1 stays there"
swapped = mixture(other, one, 0.5)(few)
assert np.allclose(sorted(both["score"]), sorted(swapped["score"])), "at one half, order does not matter"
print("exercise 2: right")

# %%
mixed = {f"{w:.1f} calibrated + {1 - w:.1f} BM25": mixture(one, other, w) for w in (0.0, 0.3, 0.5, 0.7, 1.0)}
pt.Experiment(list(mixed.values()), topics, qrels, ["ndcg_cut_10"], names=list(mixed)).round(3)

# %% [markdown]
# The weight that looks best here was chosen on the topics that it is scored on. To claim it, choose it on other topics.
#
# ## The report
#
# `compare(...)` does all of this with training and writes `report.html`, a page to pass on; `pyterrier-rescale demo` makes
# one in minutes.
#
# **What to remember.** A comparison is one expression: pipelines, topics, qrels, measures, a baseline, a correction. Put
# the cheap rows in: BM25, and word pieces times IDF. Report what it costs. Choose nothing on the topics you report.

# %% [markdown]
# # 4. A comparison as one expression
#
# Fifteen minutes. Six systems, one collection, one table: how to compare retrieval systems in PyTerrier so that a
# colleague believes it. With significance, with the cost beside the effectiveness, and against BM25: the usual way to
# score words, without any neural network.
#
# The words of a retrieval experiment: **topics** are test queries; **qrels** say which documents are relevant to each; a
# *system* ranks documents for every topic; a *measure* says how good a ranking is, and is averaged over the topics.

# %%
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
from statsmodels.stats.multitest import multipletests
from transformers import AutoModelForMaskedLM, AutoTokenizer
from transformers.utils import logging

from pyterrier_rescale import (
    LexicalEncoder,
    Splade,
    calibrate,
    load_collection,
    rescale,
    small_backbone,
    systems,
    train,
)

logging.disable_progress_bar()  # no bar for every model that is loaded

# %% [markdown]
# ## Data and encoders
#
# 600 documents and 50 topics: a topic is the first line of a docstring, its one relevant document is the rest. An
# *encoder* makes sparse vectors of texts. Here it is one language model with its head raw, divided by 16 (notebook 2) and
# calibrated (notebook 3), none of them trained to search; the calibrated one after 100 steps of training; and the text's
# own tokens times IDF, which needs no model at all. Training takes about a minute, on pairs that are in no test topic. To
# save time the encoders read the first 64 tokens of each text, and say so; BM25 reads all of it.

# %%
whole = load_collection("docstrings")
documents = [document["text"] for document in whole.corpus()]
backbone = small_backbone("modernbert", documents, steps=400)
model, tokenizer = AutoModelForMaskedLM.from_pretrained(backbone), AutoTokenizer.from_pretrained(backbone)
collection = whole.sample(600, 50)
calibrated = calibrate(model, documents[::40][:256], tokenizer=tokenizer).apply(model)
work = Path(tempfile.mkdtemp())
trained = train(backbone, collection.train_pairs()[::4], work / "trained", rescale="calibrated", batch_size=16, max_steps=100,
                learning_rate=5e-4, ramp_steps=75, max_length=64, save_steps=0, verbose=False)
encoders = {
    "raw": Splade(model, tokenizer=tokenizer, max_length=64),
    "k=16": Splade(rescale(model, 16.0), tokenizer=tokenizer, max_length=64),
    "calibrated": Splade(calibrated, tokenizer=tokenizer, max_length=64),
    "trained": trained,
    "tokens x idf": LexicalEncoder(tokenizer, idf_from=documents, max_length=64),
}

# %% [markdown]
# ## Pipelines
#
# `systems` indexes the collection once per encoder and gives back pipelines. A pipeline is an expression: query encoder,
# then retriever, joined by `>>`. BM25 is one more, from the search engine Terrier. That one needs Java, and the package
# brings it (its first use downloads Terrier, 100 MB); a line "Java started" in red is no error. `engine="exact"` does
# without.

# %%
pipelines = systems(encoders, collection, work / "indexes", engine="exact", num_results=100)
bm25_index = pt.terrier.TerrierIndex(work / "bm25")
bm25_index.indexer(meta={"docno": 200}).index({"docno": d["docno"], "text": d["text"]} for d in collection.corpus())
pipelines["BM25"] = pt.rewrite.tokenise() >> bm25_index.bm25(num_results=100)

# %% [markdown]
# ## The experiment
#
# Both measures are 1 if the relevant document comes first and less the lower it stands: `recip_rank` is 1 / its rank,
# `ndcg_cut_10` falls more slowly, and is 0 below rank 10. The p-value says how often a difference to the *baseline* as large
# as this one would come about by the luck of these topics alone (paired t-test, on `ndcg_cut_10`). The baseline is what one
# would use otherwise, BM25. An untrained encoder is none: everybody is better than that, and a small p-value shows nothing.

# %%
topics, qrels = collection.topics(), collection.qrels()
table = pt.Experiment(
    list(pipelines.values()), topics, qrels, ["ndcg_cut_10", "recip_rank"], names=list(pipelines),
    baseline=list(pipelines).index("BM25"), correction="holm",
)
some = [d["text"] for d in collection.corpus()][:200]
table["terms/doc"] = [f"{encoders[name].encode_docs(some).nnz / 200:.0f}" if name in encoders else "" for name in table["name"]]
p_values = table["ndcg_cut_10 p-value corrected"]
table["to BM25"] = table["ndcg_cut_10"] - table.set_index("name").loc["BM25", "ndcg_cut_10"]
table["p (corrected)"] = ["" if np.isnan(p) else "< .001" if p < 0.001 else f"{p:.3f}" for p in p_values]
table[["name", "ndcg_cut_10", "recip_rank", "to BM25", "p (corrected)", "terms/doc"]].round(3)

# %% [markdown]
# Read it from the right: how many terms does a system pay per document (terms that fire, each an entry of the index), is
# the difference to BM25 more than the topics' luck, and of which sign is it? A small p-value beside a negative difference
# says that the system is *worse*, and surely so. A large one says that these topics cannot tell, not that both are equal.
# Is the trained encoder ahead of the row that needs no language model, `tokens x idf`?
#
# ### Exercise 1
#
# Five tests were made, one for each system but the baseline, and of tests without any true difference one in twenty has
# p < 0.05. Holm's correction takes that into account: sort the p-values; multiply the smallest by the number of tests n,
# the next by n - 1, and so on; never let a corrected value fall below an earlier one; cap at 1. Return the corrected
# values in the order of the given ones. For 0.04, 0.01, 0.03 they are 0.06, 0.03, 0.06.

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
got = holm([0.04, 0.01, 0.03])
assert got is not None, "holm returns nothing yet: write your answer into the cell above, with a return"
assert len(got) == 3, f"three p-values go in, three should come out, yours are {len(got)}"
got = tuple(float(round(p, 3)) for p in got)
mistakes = {
    (0.12, 0.03, 0.09): "that is Bonferroni's correction, every value times n; Holm multiplies the second smallest by n - 1",
    (0.04, 0.03, 0.04): "that is Benjamini and Hochberg's correction, n divided by the place; Holm's factors are n, n - 1, ...",
    (0.04, 0.03, 0.06): "a value fell below an earlier one: keep the largest so far",
    (0.03, 0.06, 0.06): "these are the right values in the order of size: bring each back to its old place",
    (0.12, 0.01, 0.06): "the factors go the wrong way: the smallest value gets n, the largest 1",
    (0.04, 0.01, 0.03): "nothing is corrected",
}
assert got == (0.06, 0.03, 0.06), f"0.04, 0.01, 0.03 should give 0.06, 0.03, 0.06, yours are {got}: {mistakes.get(got, 'is each step there?')}"
rng = np.random.default_rng()
for n in (1, 2, 6, 9):
    p = rng.random(n).round(3)
    got, right = np.asarray(holm(list(p))), multipletests(p, method="holm")[1]
    assert (got <= 1).all(), f"no value should be above 1: {list(p)} gave {list(got)}; cap at 1"
    assert np.allclose(got, right), f"{list(p)} should give {list(right)}, as statsmodels says, yours are {list(got)}"
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


one, other = pipelines["trained"], pipelines["BM25"]
both = mixture(one, other, 0.5)
assert both is not None, "mixture returns nothing yet: write your answer into the cell above, with a return"
assert isinstance(both, pt.Transformer), f"return a pipeline, not {type(both).__name__}: * and + of pipelines give one"
scores = {weight: mixture(one, other, weight)(few) for weight in (1.0, 0.5, 0.0)}
low, high = min(s["score"].min() for s in scores.values()), max(s["score"].max() for s in scores.values())
assert low > -1e-6 and high < 1 + 1e-6, (
    f"a mixture of scores in 0..1 should stay there, yours go from {low:.3g} to {high:.3g}: are both normalised before they are added, and the weights `weight` and 1 - `weight`?"
)
assert best(mixture(one, other, 1.0)) != best(mixture(one, other, 0.0)), "weight 1 and weight 0 give the same documents: your answer does not use `weight`"
assert best(mixture(one, other, 1.0)) == best(one), "with weight 1 the first system's best documents should stay first: are the weights the wrong way round?"
assert best(mixture(one, other, 0.0)) == best(other), "with weight 0 the second system's best documents should stay first: has it 1 - weight?"
swapped = mixture(other, one, 0.5)(few)
assert np.allclose(sorted(scores[0.5]["score"]), sorted(swapped["score"])), "with weight 0.5 it should not matter which system is the first"
half = scores[0.5].groupby("qid")["score"].max()
assert (half < 1 - 1e-6).any(), "with weight 0.5 only a document that both put first should have the score 1: normalise each before the sum, not the sum"
print("exercise 2: right")

mixed = {f"{w:.1f} trained + {1 - w:.1f} BM25": mixture(one, other, w) for w in (0.0, 0.3, 0.5, 0.7, 1.0)}
pt.Experiment(list(mixed.values()), topics, qrels, ["ndcg_cut_10"], names=list(mixed)).round(3)

# %% [markdown]
# Is any mixture ahead of BM25 alone, the first row? It need not be: this encoder was trained for a minute, and fusion with
# a much weaker system may cost more than it brings. Whatever weight looks best, it was chosen on the topics that it is
# scored on. To claim it, choose it on other topics.
#
# ## The report
#
# `compare(...)` does all of this with training and writes `report.html`, a page to pass on; at a terminal, `pyterrier-rescale
# demo` makes one in minutes.

# %% [markdown] tags=["slide"]
# ## A comparison as one expression: what to remember
#
# A comparison is one expression: pipelines, topics, qrels, measures, a baseline, a correction. The
# baseline is what one would use otherwise: BM25. Put word pieces times IDF in, too. Report what it costs. Choose nothing on the topics you report.

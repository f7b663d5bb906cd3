# %% [markdown]
# # 5. Your own texts
#
# Fifteen minutes. You take a table of texts, find out what a model's head needs for them, train an encoder for a minute,
# search, and ask why a document was found. Nobody has judged anything in your table, and still you will measure whether the
# search works. (Head, term, to fire: see notebook 1; calibrated: notebook 3; BM25, topics, qrels: notebook 4.)

# %%
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
from transformers.utils import logging

from pyterrier_rescale import audit, load_collection, open_index, small_backbone, train

logging.disable_progress_bar()  # no bar for every model that is loaded
work = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The table
#
# A CSV file with a row per text and the columns `docno` (a name, each once), `title` and `text`. The cell writes one, so
# that the notebook runs as it is: 2,000 docstrings. To use your own, put its name into the last line but one. A thousand
# rows or more are best.

# %%
pairs = load_collection("docstrings").train_pairs()[:12_000:6]  # (first line, the rest) of docstrings
example = [{"docno": f"d{number}", "title": title, "text": text} for number, (title, text) in enumerate(pairs)]
pd.DataFrame(example).to_csv(work / "example.csv", index=False)

file = work / "example.csv"  # your own: file = "my_texts.csv"
table = pd.read_csv(file, dtype=str, keep_default_na=False)
table.head(3)

# %% [markdown]
# `dtype=str` keeps a docno such as 007 as it is, and `keep_default_na=False` keeps texts such as "NA", which pandas would
# take for missing ones.
#
# ## Questions with known answers
#
# Nobody has judged these texts. But a title was written for its text, so it is a question whose answer is known: search for
# the title, and its own text should come first. This is called *known-item search*. It is only fair where the text does not
# repeat its title: else every search engine finds it, and learns nothing in training.
#
# ### Exercise 1
#
# Return the docnos of the rows whose `text` holds its whole `title`, whether in capitals or not, as a list.

# %%
def repeated(table: pd.DataFrame) -> list[str]:
    ### BEGIN SOLUTION
    return [row.docno for row in table.itertuples() if row.title.lower() in row.text.lower()]
    ### END SOLUTION


# %%
trial = pd.DataFrame([
    ("same", "Open a file", "Open a file"), ("start", "Open a file", "Open a file for reading."),
    ("inside", "Open a file", "To open a file, call this."), ("other", "Close it", "Open a file"),
    ("words", "file open", "Open a file."), ("turned", "Open a file for reading.", "Open a file"),
], columns=["docno", "title", "text"]).sample(frac=1)
got = repeated(trial)
assert got is not None, "repeated returns nothing yet: write your answer into the cell above, with a return"
assert not isinstance(got, (str, pd.DataFrame)) and np.ndim(got) == 1, f"return a list of docnos, not {type(got).__name__}"
assert all(isinstance(docno, str) for docno in got), "return docnos, the strings of that column, not positions or True and False"
for docno, word in (
    ("turned", "the text is held by its title, not the other way round"),
    ("words", "its words stand in the text, but not the title as it is"),
    ("other", "its title stands in the text of another row"),
):
    assert docno not in got, f"the row {docno!r} should not be there: {word}"
for docno, word in (
    ("same", "text and title are the same"), ("start", "the text begins with its title, which is not all of it"),
    ("inside", "the title stands in the middle of the text, without its capital"),
):
    assert docno in got, f"the row {docno!r} should be there: {word}"
print(f"exercise 1: right; {len(repeated(table))} of {len(table):,} texts of your table repeat their title")

# %% [markdown]
# Rows that repeat their title, or have none, are left out of training and test here; they can still be found. A hundred of the
# others are drawn for the test, *at random*: the first hundred rows of a table are often alike. They are not trained on.

# %%
fair = table[[bool(t.strip()) and t.lower() not in x.lower() for t, x in zip(table["title"], table["text"])]]
test = fair.sample(min(100, len(fair) // 5), random_state=0)
training = fair.drop(test.index)
collection = load_collection(
    documents=table[["docno", "text"]],  # without the titles: they are the questions
    topics=test.rename(columns={"docno": "qid", "title": "query"}),
    qrels=pd.DataFrame({"qid": test["docno"], "docno": test["docno"], "label": 1}),
)
print(f"{len(table):,} documents, {len(training):,} pairs to train on, {len(collection.topics())} topics")

# %% [markdown]
# ## Audit, and train a little
#
# The small backbone is trained on your texts first, once, in about a minute. With a hub name such as
# `answerdotai/ModernBERT-base` you would get a much better encoder, and need a GPU.

# %%
texts = table["text"].tolist()
backbone = small_backbone("modernbert", texts, steps=400)
print(textwrap.fill(audit(backbone, texts[:: max(1, len(texts) // 128)]).verdict, 110))

# %%
splade = train(
    backbone, list(zip(training["title"], training["text"])), work / "splade", rescale="calibrated", batch_size=16, max_steps=100,
    learning_rate=5e-4, ramp_steps=75, max_length=64, save_steps=0, verbose=False,
)

# %% [markdown]
# ## Search, and ask why
#
# An index holds the documents' vectors. `engine="exact"` needs no Java; without it, it is Terrier's.

# %%
index = open_index(work / "index", engine="exact")
(splade.doc_encoder() >> index.indexer()).index(collection.corpus())
search = splade.query_encoder() >> index.retriever(num_results=100)
found = search.search(test["title"].iloc[0])
found.merge(table, on="docno")[["rank", "score", "query", "title"]].head()

# %%
splade.explain(test["title"].iloc[0], found.merge(table, on="docno")["text"].iloc[0])

# %% [markdown]
# Read the bars: which terms stand in both texts, and which did the model add to one of them? A score that rests on added terms
# alone deserves a second look.
#
# ## Does it work?
#
# ### Exercise 2
#
# The simplest measure is *success at k*: the share of all topics whose right document is among the first k. `results` has
# the columns `qid`, `docno` and `rank`, where the first rank is 0; `qrels` has a row with `qid` and `docno` for each topic.
# A topic without any result is a failure, too.

# %%
def success_at(results: pd.DataFrame, qrels: pd.DataFrame, k: int) -> float:
    ### BEGIN SOLUTION
    right = results.merge(qrels, on=["qid", "docno"])
    return float((right["rank"] < k).sum() / len(qrels))
    ### END SOLUTION


# %%
trial = pd.DataFrame(
    [("q1", "a", 0), ("q1", "b", 1), ("q2", "a", 0), ("q2", "c", 1), ("q2", "b", 2), ("q3", "b", 0), ("q3", "a", 1)],
    columns=["qid", "docno", "rank"],
)
answers = pd.DataFrame([("q1", "a"), ("q2", "b"), ("q3", "d"), ("q4", "c")], columns=["qid", "docno"])  # found at 0, at 2, not at all, no result
got = success_at(trial, answers, 2)
assert got is not None, "success_at returns nothing yet: write your answer into the cell above, with a return"
assert np.ndim(got) == 0, f"return one number, not {type(got).__name__}"
mistakes = {
    0.5: "ranks begin with 0: the first 2 are the ranks 0 and 1",
    0.333: "q4 has no result, and is a topic all the same: divide by the number of topics in qrels",
    0.667: "ranks begin with 0, and q4 counts as a topic, too",
    0.143: "that is a share of the rows of results: divide by the number of topics",
    1.0: "that is a number of topics: divide by all of them",
    0.75: "the right document differs from topic to topic: compare qid and docno",
}
assert abs(got - 0.25) < 1e-6, f"of four topics one has its document among the first 2, 0.25; yours is {got:.3f}: " + mistakes.get(round(float(got), 3), "compare qid and docno")
assert success_at(trial, answers, 3) == 0.5 and success_at(trial, answers, 1) == 0.25, "your answer does not use `k`: among the first 3 are two of four"
results = search(collection.topics())
for k in (1, 10):
    right = pt.Evaluate(results, collection.qrels(), metrics=[f"success_{k}"])[f"success_{k}"]
    assert abs(success_at(results, collection.qrels(), k) - right) < 1e-6, f"on your texts success at {k} should be {right:.3f}"
print(f"exercise 2: right; on your texts, success at 1: {success_at(results, collection.qrels(), 1):.2f}, at 10: {success_at(results, collection.qrels(), 10):.2f}")

# %% [markdown]
# ## Against BM25
#
# A number alone says little. The same topics with BM25, which needs no training:

# %%
bm25_index = pt.terrier.TerrierIndex(work / "bm25")
bm25_index.indexer(meta={"docno": 200}).index({"docno": d["docno"], "text": d["text"]} for d in collection.corpus())
pt.Experiment(
    [pt.rewrite.tokenise() >> bm25_index.bm25(num_results=100), search], collection.topics(), collection.qrels(),
    ["ndcg_cut_10", "success_1", "success_10"], names=["BM25", "a minute of training"], baseline=0,
)[["name", "ndcg_cut_10", "success_1", "success_10", "ndcg_cut_10 p-value"]].round(3)

# %% [markdown]
# On the example BM25 is ahead, and should be: a small model and a minute of training do not beat it. With a real backbone
# and some hours on a GPU, the same lines can. At a terminal the same is `pyterrier-rescale compare`.

# %% [markdown] tags=["slide"]
# ## Your own texts: what to remember
#
# A table with titles is a test collection: titles are questions, their texts the answers. Keep titles out of what is searched,
# test rows out of what is trained, and draw the test at random. Look at single results, and ask why. Compare with BM25.

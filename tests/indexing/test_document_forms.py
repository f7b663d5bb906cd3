"""Documents as lists, frames, Hugging Face datasets and iterators: all the same index, or one clear refusal."""

from __future__ import annotations

import datasets
import pandas as pd
import pytest
import tiny

from pyterrier_rescale import Splade, open_index, systems
from pyterrier_rescale.training.loading import load_rows

DOCS = tiny.DOCUMENTS
QUERY = pd.DataFrame({"qid": ["q"], "query": [tiny.TEXTS[3]]})
ALL_SPLITS = datasets.DatasetDict(train=datasets.Dataset.from_list(DOCS))


@pytest.fixture(scope="module")
def splade(bert_folder):
    return Splade(bert_folder, max_length=32)


FORMS = {
    "list": lambda docs: docs,
    "frame": pd.DataFrame,
    "dataset": datasets.Dataset.from_list,
    "streamed": lambda docs: datasets.Dataset.from_list(docs).to_iterable_dataset(),
    "iterator": iter,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_index(splade, tmp_path, form):
    expected = systems({"a": splade}, DOCS, tmp_path / "list", engine="exact")["a"](QUERY)
    if form == "iterator":  # systems() reads the corpus once per encoder, and once before
        with pytest.raises(TypeError, match="corpus must be readable several times, got a list_iterator"):
            systems({"a": splade}, FORMS[form](DOCS), tmp_path / "form", engine="exact")
    else:
        found = systems({"a": splade}, FORMS[form](DOCS), tmp_path / "form", engine="exact")["a"](QUERY)
        pd.testing.assert_frame_equal(found, expected)
        assert load_rows([("q", "d3")], (FORMS[form](DOCS), {"q": "w"}))[0].documents == (tiny.TEXTS[3],)
    index = open_index(tmp_path / "toks", "exact")
    if form in ("dataset", "streamed"):  # Arrow's structs have every term in every row
        index = (splade.doc_encoder() >> index.indexer(verbose=True)).index(FORMS[form](DOCS))
    else:
        index = index.indexer(verbose=True).index(FORMS[form](list(splade.doc_encoder()(DOCS))))
    assert list((splade.query_encoder() >> index.retriever())(QUERY)["docno"]) == list(expected["docno"])


@pytest.mark.parametrize("wrong", [ALL_SPLITS, DOCS[0], "corpus.jsonl", 7])
def test_other_forms_are_refused(splade, tmp_path, wrong):
    for use in (
        open_index(tmp_path / "a", "exact").indexer().index,
        lambda docs: systems({"a": splade}, docs, tmp_path / "b", engine="exact"),
        lambda docs: load_rows([("q", "d3")], (docs, {"q": "w"})),
    ):
        with pytest.raises((TypeError, FileNotFoundError)):  # a string of ``load_rows`` is a file
            use(wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "what"), [("a \ud83d b", "holds half a character"), (None, "must be a string, got None")]
)
def test_errors_about_a_document_name_its_docno(splade, tmp_path, text, what):
    docs = [*DOCS[:7], {"docno": "bad", "text": text}]
    pipeline = splade.doc_encoder() >> open_index(tmp_path / "a", "exact").indexer()
    for use in (lambda: pipeline.index(iter(docs)), lambda: splade.doc_encoder()(pd.DataFrame(docs, dtype=object))):
        with pytest.raises(ValueError, match=rf"row 7 of column 'text' .docno 'bad'. {what}"):
            use()

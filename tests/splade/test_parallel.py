"""Encoders and pipelines are the same copied, pickled, and in processes that .parallel(), joblib and Ray start."""

from __future__ import annotations

import copy
import pickle
import shutil
import warnings

import cloudpickle
import pandas as pd
import pytest
import tiny

from pyterrier_rescale import Splade, open_index, rescale

WAYS = {
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "cloudpickle": lambda thing: pickle.loads(cloudpickle.dumps(thing)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}
DOCUMENTS = pd.DataFrame({"docno": [f"d{i}" for i in range(12)], "text": tiny.TEXTS})
QUERIES = pd.DataFrame({"qid": [f"q{i}" for i in range(6)], "query": tiny.TEXTS[:6]})


def stages(splade):
    pairs = QUERIES.merge(DOCUMENTS, how="cross")
    return [
        (splade.doc_encoder(scale=50, batch_size=4), DOCUMENTS),
        (splade.query_encoder(scale=2.0), QUERIES),
        (splade, DOCUMENTS),
        (splade.query_encoder() >> splade.scorer(), pairs),
    ]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["bert", "modernbert", "xlm-roberta"])
@pytest.mark.parametrize("loaded", [True, False])
def test_copies(way, family, loaded, tmp_path):
    """Of a folder, and of a model in memory, which goes along; what was pickled needs no folder."""
    source, tokenizer = tiny.build(family)
    if loaded:
        source = rescale(source.train(), 4)
    else:
        source, tokenizer = tiny.save(family, tmp_path / "m"), None
    splade = Splade(source, tokenizer=tokenizer, pooling="sum", max_length=32, lowercase=True, batch_size=5)
    again = WAYS[way](splade)
    if not loaded:
        shutil.rmtree(source)
    assert again == splade and hash(again) == hash(splade) and repr(again) == repr(splade)
    for stage, frame in stages(splade):
        pd.testing.assert_frame_equal(WAYS[way](stage)(frame), stage(frame))


@pytest.fixture(scope="module")
def pipelines(bert_folder, tmp_path_factory):
    """{engine: pipeline}; the encoder is carried by name in one, with its model in the other."""
    folder = tmp_path_factory.mktemp("indexes")
    model, tokenizer = tiny.build("bert")
    made = {}
    for engine, splade in (
        ("exact", Splade(bert_folder, max_length=32)), ("terrier", Splade(model, tokenizer=tokenizer, max_length=32))
    ):  # fmt: skip
        index = open_index(folder / engine, engine)
        (splade.doc_encoder() >> index.indexer()).index(DOCUMENTS.to_dict("records"))
        made[engine] = splade.query_encoder() >> index.retriever(5) >> index.feedback() >> index.retriever(8)
    return made


@pytest.fixture(scope="module", autouse=True)
def _end_workers():
    yield
    reusable = pytest.importorskip("joblib.externals.loky").get_reusable_executor()
    reusable.shutdown(wait=True, kill_workers=True)


def check(found, pipeline):
    here = pipeline(QUERIES)
    assert len(here) > len(QUERIES) and here["qid"].nunique() == len(QUERIES)
    pd.testing.assert_frame_equal(found.reset_index(drop=True), here, rtol=1e-6)


@pytest.mark.parametrize("engine", ["exact", "terrier"])
def test_pyterriers_parallel(pipelines, engine):
    pytest.importorskip("joblib")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".parallel.. is experimental")
        found = pipelines[engine].parallel(2)(QUERIES)
    check(found, pipelines[engine])

"""Pipelines in other processes, as PyTerrier's .parallel(), joblib and Ray start them: the same run."""

from __future__ import annotations

import warnings

import pandas as pd
import pytest
import tiny

from pyterrier_rescale import Splade, open_index

QUERIES = pd.DataFrame({"qid": [f"q{i}" for i in range(6)], "query": tiny.TEXTS[:6]})


@pytest.fixture(scope="module")
def pipelines(bert_folder, tmp_path_factory):
    """{engine: pipeline}; the encoder is carried by name in one, with its model in the other."""
    folder = tmp_path_factory.mktemp("indexes")
    documents = [{"docno": f"d{i}", "text": text} for i, text in enumerate(tiny.TEXTS)]
    model, tokenizer = tiny.build("bert")
    made = {}
    for engine, splade in (
        ("exact", Splade(bert_folder, max_length=32)), ("terrier", Splade(model, tokenizer=tokenizer, max_length=32))
    ):  # fmt: skip
        index = open_index(folder / engine, engine)
        (splade.doc_encoder() >> index.indexer()).index(documents)
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


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["exact", "terrier"])
def test_ray(pipelines, engine):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        remote = ray.remote(lambda pipeline, queries: pipeline(queries))
        parts = ray.get([remote.remote(pipelines[engine], part) for part in (QUERIES[:3], QUERIES[3:])])
        check(pd.concat(parts), pipelines[engine])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".parallel.. is experimental")
            check(pipelines[engine].parallel(2, backend="ray")(QUERIES), pipelines[engine])
    finally:
        ray.shutdown()

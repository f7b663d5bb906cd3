"""An explanation's contributions are the score; what it marks as own tokens is what the tokenizer gives."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

from pyterrier_rescale import Splade


@pytest.fixture(scope="module")
def splade(tmp_path_factory):
    return Splade(tiny.save("bert", tmp_path_factory.mktemp("explained") / "bert"), max_length=32)


def test_contributions_sum_to_the_dot_product(splade):
    query, text = tiny.TEXTS[0], tiny.TEXTS[1]
    shown = splade.explain(query, text)
    q, d = splade.encode_queries([query]).toarray()[0], splade.encode_docs([text]).toarray()[0]
    assert shown["contribution"].sum() == pytest.approx(float(q @ d), rel=1e-5) and shown.score > 0
    assert len(shown) == np.count_nonzero(q)
    assert (shown["contribution"].diff().dropna() <= 1e-12).all()
    np.testing.assert_allclose(shown["contribution"], shown["query_weight"] * shown["document_weight"])


def test_expansions_are_told_from_own_tokens(splade):
    query, text = "sparse retrieval", "dense retrieval"
    shown = splade.explain(query, text).set_index("term")
    tokenizer, terms = splade.encoder.tokenizer, splade.term_map()
    for side, value in (("in_query", query), ("in_document", text)):
        own = {terms.readable(i, tokenizer) for i in tokenizer(value, add_special_tokens=False)["input_ids"]}
        assert set(shown.index[shown[side]]) == own & set(shown.index)
    assert not shown["in_query"].all()


def test_bad_input_and_blank_text(splade):
    for pair in ((["a"], "b"), ("a", None)):
        with pytest.raises(ValueError, match="must be a string"):
            splade.explain(*pair)
    assert splade.explain("sparse", "").score == 0 and len(splade.explain("", "sparse")) == 0


def test_html_escapes_and_draws(splade):
    page = splade.explain("sparse <script>alert(1)</script>", "sparse <script> retrieval")._repr_html_()
    assert "<script" not in page and "sum of the contributions" in page
    assert "background" in page

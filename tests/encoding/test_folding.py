"""Folded vocabularies: variants as the tokenizer's own decoder tells them, injective terms, largest weights."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tiny
import torch
from dense import dense_fold, variants
from scipy.sparse import csr_matrix

from pyterrier_rescale.encoding.terms import Folding, TermMap, fold_rows, fold_weights


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_variants_are_those_of_the_decoder(kind):
    tokenizer = tiny.tokenizer(kind)
    tokenizer.add_tokens(["Sparse", "SPARSE", "x17", "naïve"])
    size = len(tokenizer) + 8
    folding = Folding(tokenizer, size)
    expected = np.empty(size, dtype=int)
    for members in variants(tokenizer, size):
        expected[members] = members[0]
    np.testing.assert_array_equal(folding.representatives, expected)
    assert folding.size == len(set(expected)) < size - (0 if kind == "wordpiece" else 20)
    terms = TermMap(tokenizer, size, folding=folding)
    assert len(set(terms.terms)) == size and all(re.match(r"[a-z0-9]{1,20}\Z", term) for term in terms.terms)
    unfolded, raw = TermMap(tokenizer, size), TermMap(tokenizer, size, "raw", folding=folding)
    longer = TermMap(tokenizer, size + 1)
    assert len({one.fingerprint for one in (terms, unfolded, raw, longer)}) == 4
    assert TermMap(tokenizer, size).fingerprint == unfolded.fingerprint
    assert list(raw.terms) == list(TermMap(tokenizer, size, "raw").terms)


def test_case_and_the_mark_of_a_word_start():
    tokens = "<s> Apple Ġapple apple ĠApple ing Ing ĠBM x5 Ġ ĠĠ".split()
    folding = Folding(tiny.Vocabulary(tokens, special=[0]), 13)
    assert folding.representatives.tolist() == [0, 2, 2, 2, 2, 5, 5, 7, 8, 9, 10, 11, 12]
    assert folding.words == [None, None, "apple", None, None, None, None, "bm", None, None, None, None, None]
    terms = TermMap(tiny.Vocabulary(tokens, special=[0]), 13, folding=folding)
    assert list(terms.terms) == ["x0", "x1", "apple", "x3", "x4", "x5", "x6", "bm", "x8", "x9", "x10", "x11", "x12"]
    assert terms.readable(2, None) == "apple" and terms.readable(7, None) == "bm"
    wordpiece = Folding(tiny.Vocabulary(["[CLS]", "Sparse", "##sparse", "sparse", "##Sparse", "[cls]"], special=[0]), 6)
    assert wordpiece.representatives.tolist() == [0, 3, 2, 3, 2, 5], "what continues a word is another term"
    pieces = Folding(tiny.Vocabulary(["\u2581Apple", "apple", "\u2581apple", "\u2581", "\u2581pear"]), 5)
    assert pieces.representatives.tolist() == [2, 2, 2, 3, 4]


def test_letters_of_several_bytes_and_pieces_of_them():
    def spelt(text):
        return tiny.tokenizer("bpe").backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)[0][0]

    big, small = spelt(" É"), spelt(" é")
    assert big.lower() != small, "their bytes are no letters"
    tokens = [big, small, small[1:], "\u00c3", "\u00e3", "\u0120a", "a", "É"]
    folding = Folding(tiny.Vocabulary(tokens, added=["É"]), 8)
    assert folding.representatives.tolist() == [1, 1, 1, 3, 4, 5, 5, 1], "half a letter is a variant of nothing"


def test_the_largest_weight_with_its_gradient():
    tokenizer = tiny.tokenizer("bpe")
    size = len(tokenizer)
    folding = Folding(tokenizer, size)
    generator = torch.Generator().manual_seed(0)
    weights = torch.relu(torch.randn(7, size, generator=generator, dtype=torch.float64)).requires_grad_()
    ours = fold_weights(weights, torch.from_numpy(folding.representatives))
    truth = dense_fold(weights, variants(tokenizer, size))
    torch.testing.assert_close(ours, truth)
    upstream = torch.randn(7, size, generator=generator, dtype=torch.float64)
    got, expected = (torch.autograd.grad(x, weights, upstream)[0] * (weights > 0) for x in (ours, truth))
    torch.testing.assert_close(got, expected)
    rows = csr_matrix(weights.detach().numpy())
    rows[3] = 0
    rows.eliminate_zeros()
    folded = fold_rows(rows, folding)
    expected = dense_fold(torch.from_numpy(rows.toarray()), variants(tokenizer, size))
    np.testing.assert_allclose(folded.toarray(), expected)
    assert folded.has_sorted_indices and folded.has_canonical_format and (folded.data > 0).all()
    assert fold_rows(rows, None) is rows and fold_rows(rows[3], folding).nnz == 0

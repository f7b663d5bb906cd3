"""Vocabulary to terms and back: injective, safe, readable, over whole vocabularies with junk in them."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
import tiny
from scipy.sparse import csr_matrix

from pyterrier_rescale.encoding.terms import TermMap, Toks, to_toks

SAFE = re.compile(r"[a-z0-9]{1,20}\Z")
JUNK = [
    "hello\nworld", "x17", "X17", "Hello", "hello", "\U0001f600", "\ue000", "a" * 80, "naïve", " ", "##", "\u0120", "é",
    ".",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_whole_vocabularies_are_mapped_one_to_one(kind):
    tokenizer = tiny.tokenizer(kind)
    tokenizer.add_tokens([token for token in JUNK if token.strip()])
    size = len(tokenizer) + 8
    terms = TermMap(tokenizer, size)
    assert len(terms.terms) == size
    assert all(SAFE.match(term) for term in terms.terms)
    assert [terms.ids[term] for term in terms.terms] == list(range(size))
    readable = [term for term in terms.terms if not re.match(r"x\d+$", term)]
    assert len(readable) > 20


def test_word_starts_stay_words_and_all_others_become_numbers():
    wordpiece = TermMap(tiny.Vocabulary(["[PAD]", "hello", "##hello", "Hello", "x5", "2024", "", "a" * 21]), 9)
    assert list(wordpiece.terms) == ["x0", "hello", "x2", "x3", "x4", "2024", "x6", "x7", "x8"]
    bpe = TermMap(tiny.Vocabulary(["<s>", "\u0120hello", "hello", "\u0120Hello", "\u0120x5", "\u0120"]), 6)
    assert list(bpe.terms) == ["x0", "hello", "x2", "x3", "x4", "x5"]
    pieces = TermMap(tiny.Vocabulary(["<s>", "\u2581hello", "hello"]), 3)
    assert list(pieces.terms) == ["x0", "hello", "x2"]


def test_raw_terms_are_the_tokens():
    tokenizer = tiny.tokenizer("bpe")
    raw = TermMap(tokenizer, len(tokenizer) + 1, "raw")
    assert list(raw.terms[:-1]) == tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    assert len(set(raw.terms)) == len(tokenizer) + 1


def test_toks_are_dicts_that_know_their_vocabulary():
    terms = np.array(["a", "b", "c"], dtype=object)
    first, second, third = to_toks(terms, csr_matrix([[5, 0, 7], [0, 0, 0], [0, 9, 0]]), vocab="f:1")
    assert first == {"a": 5, "c": 7} and second == {} and third == {"b": 9}
    assert type(first["a"]) is int
    copy = pickle.loads(pickle.dumps(first))
    assert isinstance(copy, Toks) and copy == first and copy.vocab == first.vocab == "f:1"

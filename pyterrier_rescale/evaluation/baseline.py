"""BM25 beside encoders, in one call."""

from __future__ import annotations

import os
from itertools import chain
from typing import Any

import pyterrier as pt

from .._utils.files import expand
from ..indexing import bm25 as terrier
from ..indexing.corpus import corpus_fingerprint


def bm25(
    collection: Any, path: str | os.PathLike[str], num_results: int = 1000, *, verbose: bool = False
) -> pt.Transformer:
    """Terrier's BM25 over a collection's texts: ``qid, query`` -> ``docno, score, rank``.

    The first call builds the index at ``path``, later ones find it there. Texts that are not English get a tokeniser
    that keeps their letters: Terrier's own drops all but ASCII.

    Raises:
        ValueError: the index at ``path`` was made from other documents.
        FileExistsError: something else is there.
    """
    path = expand(path)
    queries = chain.from_iterable(collection.topics(split)["query"] for split in getattr(collection, "splits", ()))
    tokeniser = terrier.choose_tokeniser((document["text"] for document in collection.corpus()), queries)
    made_from = {"documents": corpus_fingerprint(collection.corpus)}
    terrier.build_bm25(collection.corpus, path, tokeniser=tokeniser, made_from=made_from, verbose=verbose)
    return terrier.bm25(path, num_results)

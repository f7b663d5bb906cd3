"""Engine "terrier": Terrier's inverted index, written here and searched through PyTerrier's Java."""

from __future__ import annotations

import os
import threading
import warnings
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pyterrier as pt

from ..._utils.java import start_java
from ..._utils.signals import jvm_faults
from . import storage
from .base import EngineIndex
from .documents import DocumentStream
from .inversion import Inverter
from .postings import Postings
from .searcher import Result, Searcher, order_by_score
from .terrier_files import (
    MAX_TERM_BYTES,
    write_docnos,
    write_documents,
    write_inverted,
    write_lexicon,
    write_properties,
)
from .terrier_reading import read_postings

_SEVERAL = 3
_CONTROLS_OFF = ("terrierql", "parsecontrols", "parseql", "matchopql", "applypipeline", "decorate", "decorate_batch")


class TerrierEngine(EngineIndex):
    """A Terrier index of integer weights; plain PyTerrier reads it, too: `pt.terrier.TerrierIndex(path).tf()`."""

    ARTIFACT_FORMAT = "rescale_terrier"
    engine = "terrier"

    def _prepare(self) -> None:
        start_java()

    def _check_term(self, term: str) -> None:
        size = len(term.encode("utf-8"))
        if not 1 <= size <= MAX_TERM_BYTES:
            raise ValueError(
                f"engine 'terrier' holds terms of 1 to {MAX_TERM_BYTES} UTF-8 bytes, got {term!r} ({size} bytes); "
                "doc_encoder(terms='safe') makes such terms"
            )
        if "\0" in term or max(term) > "\uffff":
            raise ValueError(
                f"engine 'terrier' cannot look up terms with NUL or characters above U+FFFF, got {term!r}; "
                "doc_encoder(terms='safe') makes terms that it can"
            )

    def _write(self, folder: Path, stream: DocumentStream, old: dict | None) -> dict[str, Any]:
        inverter, entries, lengths = Inverter(folder), array("i"), array("i")
        for _, toks in stream:
            inverter.add(toks)
            entries.append(len(toks))
            lengths.append(sum(toks.values()))
        stream.require_terms()
        inverter.finish(sort_terms=True)
        vocabulary, indptr, documents, weights = Inverter.read(folder)
        _warn_of_size(np.diff(indptr), len(lengths), stream.weight_sum, inverter.largest, stream.scale)
        terms = write_inverted(folder, indptr, documents, weights)
        del documents, weights
        Inverter.remove(folder)
        write_lexicon(folder, list(vocabulary), np.diff(indptr), terms)
        write_documents(folder, np.array(entries), np.array(lengths))
        longest = write_docnos(folder, stream.docnos)
        written = {"documents": len(entries), "postings": int(indptr[-1]), "tokens": int(terms.sums.sum())}
        given = {"documents": len(stream.docnos), "postings": stream.postings, "tokens": stream.weight_sum}
        if written != given:
            raise RuntimeError(f"the index does not hold what it was given: {written} of {given}")
        write_properties(folder, terms=len(vocabulary), longest=longest, **written)
        return {"terms": len(vocabulary)}

    def _load(self, meta: dict) -> TerrierSearcher:
        return TerrierSearcher(self.path, meta["scale"])


def _warn_of_size(counts: np.ndarray, documents: int, weight_sum: int, largest: int, scale: float) -> None:
    """Tell what the inverted file will take where unary weights make it several times larger than 8 bits would."""
    gaps = float(np.sum(counts * (2 * np.log2(documents / counts) + 1)))  # Elias gamma codes, at the mean gap
    now, at_8_bits = ((gaps + weight_sum * factor) / 8e6 for factor in (1, 255 / max(largest, 255)))
    if now >= _SEVERAL * at_8_bits:
        warnings.warn(
            f"the inverted file will take about {now:,.1f} MB, {now / at_8_bits:.1f} times what weights of 8 bits take "
            f"({at_8_bits:,.1f} MB): Terrier codes a weight w in w bits, and the largest is {largest} at scale "
            f"{scale:g}. indexer(bits=8), a scale of about {scale * 255 / largest:.3g} or engine 'exact' avoid that",
            stacklevel=2,
        )


class TerrierSearcher(Searcher):
    """An opened Terrier index, asked with weighted terms directly (no query language, no stemming, no stopwords).

    Threads take turns: Terrier decodes the postings of one opened index in place.
    """

    def __init__(self, path: Path, scale: float):
        self.docnos, self.ranks = storage.read_docnos(path)
        self.scale = scale
        self.path = path
        self.manager = pt.terrier.TerrierIndex(os.path.realpath(path)).tf().manager
        self._turn = threading.Lock()
        self.query_terms = pt.java.autoclass("org.terrier.matching.MatchingQueryTerms")

    def search(self, weights: dict[str, float], num_results: int) -> Result:
        """See `Searcher`."""
        largest = max(weights.values())
        # Terrier breaks ties by document number: ask for some more, until what is cut off scores less.
        num_results = min(num_results, len(self.docnos))
        wanted = num_results + 16
        while True:
            numbers, scores = self._match({t: w / largest for t, w in weights.items()}, wanted)
            if len(numbers) < wanted or scores[num_results - 1] * (1 - 1e-9) > scores[-1]:
                break
            wanted *= 2
        # Terrier divides the weights by the largest once more, which is 1 now.
        return order_by_score(numbers, scores * (largest / self.scale), self.ranks, num_results)

    def postings(self) -> Postings:
        """Decoded from the inverted file (eight bytes per posting in memory)."""
        return read_postings(self.path)

    def _match(self, weights: dict[str, float], num_results: int) -> Result:
        with self._turn:
            jvm_faults()
            request = pt.java.cast("org.terrier.querying.Request", self.manager.newSearchRequest("q"))
            terms = self.query_terms("q", request)
            for term, weight in weights.items():
                terms.setTermProperty(term, weight)
            request.setMatchingQueryTerms(terms)
            controls = {**dict.fromkeys(_CONTROLS_OFF, "off"), "localmatching": "on", "filters": "on", "wmodel": "Tf"}
            for control, value in {**controls, "end": str(num_results - 1)}.items():
                request.setControl(control, value)
            self.manager.runSearchRequest(request)
            found = request.getResultSet()
            return np.array(found.getDocids(), dtype=np.int64), np.array(found.getScores(), dtype=np.float64)

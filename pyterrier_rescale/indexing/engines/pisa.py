"""Engine "pisa": PISA's compressed inverted index with MaxScore, through pyterrier-pisa (the extra `pisa`)."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..generation import Generation
from .base import Engine, Result, nothing, order_by_score
from .inversion import invert, read_inverted
from .quiet import silenced

QUERY_LEVELS = 1000  # whole numbers that a query's weights are rounded to: PISA takes a weight as so many repetitions
_BATCH = 100  # queries per call, which fills arrays of k for each


class PisaEngine(Engine):
    """A PISA index of whole weights. PISA knows documents by number here."""

    name = "pisa"

    def __init__(self, folder: Path, generation: Generation) -> None:
        super().__init__(folder, generation)
        self.terms = set((folder / "fwd.terms").read_text(encoding="utf-8").split("\n")[:-1])
        self._opened = _retriever(folder, 1)

    @classmethod
    def check_term(cls, term: str) -> None:
        """See ``Engine``."""
        if not term or term != term.lower() or any(c.isspace() for c in term) or "\0" in term:
            raise ValueError(
                f"engine 'pisa' cannot hold terms that are empty or have upper case letters, white space or NUL, "
                f"got {term!r}; doc_encoder(terms='safe') makes terms that it can"
            )

    @classmethod
    def build(cls, folder: Path, generation: Generation, **options: Any) -> None:
        """See ``Engine``."""
        lengths = np.concatenate([np.asarray(v.sum(axis=1)).ravel() for v in generation.whole_blocks()])
        _write_collection(folder, generation, lengths.astype(np.uint32))
        # PISA compresses on first opening, and opens only what looks finished to it.
        metadata = {"type": "sparse_index", "format": "pisa", "package_hint": "pyterrier-pisa", "stemmer": "none"}
        (folder / "pt_meta.json").write_text(json.dumps(metadata))
        with silenced():
            _retriever(folder, 1)
        for name in ("inv.docs", "inv.freqs", "inv.sizes"):
            (folder / name).unlink()  # the uncompressed collection

    def search(self, weights: dict[str, float], k: int, **options: Any) -> Result:
        """See ``Engine``."""
        return self._search_batch([weights], k)[0]

    def search_all(
        self, queries: list[dict[str, float]], k: int, threads: int = 1, **options: Any
    ) -> Iterator[Result]:
        """See ``Engine``."""
        for first in range(0, len(queries), _BATCH):
            yield from self._search_batch(queries[first : first + _BATCH], k)

    def _search_batch(self, queries: list[dict[str, float]], k: int) -> list[Result]:
        rounded, units = zip(*(self._rounded(query) for query in queries), strict=True)
        results: list[Result] = [nothing()] * len(queries)
        todo, wanted = [i for i, query in enumerate(rounded) if query], k + 16
        while todo:
            # PISA breaks ties by document number: ask for more where what is cut off scores as much as what is kept.
            undecided = []
            for i, (numbers, scores) in zip(todo, self._match([rounded[i] for i in todo], wanted), strict=True):
                if len(numbers) == wanted and scores[k - 1] == scores[-1]:
                    undecided.append(i)
                else:
                    results[i] = order_by_score(numbers, scores * (units[i] / self.scale), self.generation.ranks, k)
            todo, wanted = undecided, wanted * 2
        return results

    def _rounded(self, query: dict[str, float]) -> tuple[dict[str, float], float]:
        """The query in whole multiples of a unit, and that unit; terms PISA would alter or not find left out."""
        known = {t: w for t, w in query.items() if t in self.terms}
        unit = max(known.values(), default=1.0) / QUERY_LEVELS
        whole = {t: float(round(w / unit)) for t, w in known.items()}
        return {t: w for t, w in whole.items() if w}, unit

    def _match(self, queries: list[dict[str, float]], k: int) -> list[Result]:
        retriever = copy.copy(self._opened)  # with the same opened files, and a number of results of its own
        retriever.num_results = k
        frame = pd.DataFrame({"qid": [str(i) for i in range(len(queries))], "query_toks": queries})
        found = retriever.transform(frame)
        numbers = found["docno"].to_numpy().astype(np.int64)
        scores = found["score"].to_numpy().astype(np.float64)
        ends = np.cumsum(np.bincount(found["qid"].astype(int), minlength=len(queries)))
        return list(zip(np.split(numbers, ends[:-1]), np.split(scores, ends[:-1]), strict=True))


def _retriever(folder: Path, num_results: int) -> Any:
    """PISA's own retriever on weights: no stemming, no stopwords, and no second scaling."""
    index = importlib.import_module("pyterrier_pisa").PisaIndex(str(folder), stemmer="none", stops="none")
    return index.quantized(num_results=num_results, query_algorithm="maxscore", toks_scale=1.0)


def _write_collection(folder: Path, generation: Generation, lengths: np.ndarray) -> None:
    """Write PISA's uncompressed collection: sequences of uint32, each after its length; terms in their order."""
    terms = sorted(generation.terms[generation.document_frequencies > 0])
    invert(folder, generation)
    _write_postings(folder, [generation.columns[term] for term in terms], len(lengths))
    with open(folder / "inv.sizes", "wb") as sizes:
        sizes.write(np.uint32(len(lengths)).tobytes() + lengths.tobytes())
    for name in ("indptr", "documents", "weights"):
        (folder / f"{name}.npy").unlink()
    native = importlib.import_module("pyterrier_pisa._pisathon")
    for name, lexicon, lines in (("terms", "termlex", terms), ("documents", "doclex", map(str, range(len(lengths))))):
        with open(folder / f"fwd.{name}", "w", encoding="utf-8", newline="\n") as out:
            out.writelines(f"{line}\n" for line in lines)
        native.build_binlex(str(folder / f"fwd.{name}"), str(folder / f"fwd.{lexicon}"))


def _write_postings(folder: Path, columns: list[int], documents: int) -> None:
    indptr, *arrays = read_inverted(folder)
    with open(folder / "inv.docs", "wb") as docs, open(folder / "inv.freqs", "wb") as freqs:
        docs.write(np.array([1, documents], dtype=np.uint32).tobytes())
        for column in columns:
            a, b = indptr[column], indptr[column + 1]
            for out, values in zip((docs, freqs), arrays, strict=True):
                out.write(np.uint32(b - a).tobytes())
                out.write(values[a:b].astype(np.uint32).tobytes())

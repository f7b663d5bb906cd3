"""Engine "pisa": PISA's compressed inverted index with MaxScore, through pyterrier-pisa (the extra `pisa`)."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..generation import Generation
from .base import LibraryEngine, Result, silenced
from .inversion import invert, read_inverted

QUERY_LEVELS = 1000  # whole numbers that a query's weights are rounded to: PISA takes a weight as so many repetitions


class PisaEngine(LibraryEngine):
    """A PISA index of whole weights. PISA knows documents by number here."""

    name = "pisa"
    batch = 100  # a call fills arrays of k for each

    def __init__(self, folder: Path, generation: Generation) -> None:
        super().__init__(folder, generation)
        self.terms = set((folder / "fwd.terms").read_text(encoding="utf-8").split("\n")[:-1])
        self._opened = _retriever(folder)

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
            _retriever(folder)
        for name in ("inv.docs", "inv.freqs", "inv.sizes"):
            (folder / name).unlink()  # the uncompressed collection

    def prepare(self, weights: dict[str, float]) -> tuple[dict[str, float], float]:
        """See ``LibraryEngine``; weights are whole multiples of a unit, terms that PISA does not know are left out."""
        known = {term: weight for term, weight in weights.items() if term in self.terms}
        unit = max(known.values(), default=1.0) / QUERY_LEVELS
        whole = {term: float(round(weight / unit)) for term, weight in known.items()}
        return {term: weight for term, weight in whole.items() if weight}, unit / self.scale

    def match(self, queries: list[dict[str, float]], k: int) -> list[Result]:
        """See ``LibraryEngine``."""
        retriever = copy.copy(self._opened)  # with the same opened files, and a number of results of its own
        retriever.num_results = k
        frame = pd.DataFrame({"qid": [str(i) for i in range(len(queries))], "query_toks": queries})
        found = retriever.transform(frame)
        numbers = found["docno"].to_numpy().astype(np.int64)
        scores = found["score"].to_numpy().astype(np.float64)
        ends = np.cumsum(np.bincount(found["qid"].astype(int), minlength=len(queries)))
        return list(zip(np.split(numbers, ends[:-1]), np.split(scores, ends[:-1]), strict=True))


def _retriever(folder: Path) -> Any:
    """PISA's own retriever on weights: no stemming, no stopwords, and no second scaling."""
    index = importlib.import_module("pyterrier_pisa").PisaIndex(str(folder), stemmer="none", stops="none")
    return index.quantized(num_results=1, query_algorithm="maxscore", toks_scale=1.0)


def _write_collection(folder: Path, generation: Generation, lengths: np.ndarray) -> None:
    """Write PISA's uncompressed collection: sequences of uint32, each after its length; terms in their order."""
    terms = sorted(generation.terms[generation.document_frequencies > 0])
    invert(folder, generation)
    indptr, *arrays = read_inverted(folder)
    with open(folder / "inv.docs", "wb") as docs, open(folder / "inv.freqs", "wb") as freqs:
        docs.write(np.array([1, len(lengths)], dtype=np.uint32).tobytes())
        for column in map(generation.columns.__getitem__, terms):
            begin, end = indptr[column], indptr[column + 1]
            for out, values in zip((docs, freqs), arrays, strict=True):
                out.write(np.uint32(end - begin).tobytes() + values[begin:end].astype(np.uint32).tobytes())
    del arrays, values  # open files cannot be removed on Windows
    (folder / "inv.sizes").write_bytes(np.uint32(len(lengths)).tobytes() + lengths.tobytes())
    for name in ("indptr", "documents", "weights"):
        (folder / f"{name}.npy").unlink()
    native = importlib.import_module("pyterrier_pisa._pisathon")
    for name, lexicon, lines in (("terms", "termlex", terms), ("documents", "doclex", map(str, range(len(lengths))))):
        with open(folder / f"fwd.{name}", "w", encoding="utf-8", newline="\n") as out:
            out.writelines(f"{line}\n" for line in lines)
        native.build_binlex(str(folder / f"fwd.{name}"), str(folder / f"fwd.{lexicon}"))

"""Weights in so many bits: the largest of all documents becomes 2**bits - 1, as the field's 8-bit impacts are made."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from ..._utils.checks import check_integer
from .documents import DocumentStream

FINE_SCALE = 10_000.0  # at which vectors come in that are not whole multiples of anything yet
_FLUSH = 1_000_000  # postings held in memory


class QuantisedStream(DocumentStream):
    """The documents of a stream in whole multiples of 1 / scale, of which the largest weight has 2**bits - 1 at most.

    The largest weight is known at the end only: the documents lie on the disk until then, eight bytes per posting.
    Weights below half a unit round to nothing and are dropped. Documents that tell their scale may come at any (all at
    the same one); `scale` is that of the result once the documents are passed on.

    `bits` is from 2 to 16; the documents lie in `folder`, or where the system keeps temporary files.
    """

    def __init__(
        self, docs: Iterable[Mapping], check_term: Callable[[str], None], scale: float, bits: int, folder: Path | None
    ):
        super().__init__(docs, check_term, scale)
        self.any_scale = True
        self.bits = check_bits(bits)
        self.folder = folder

    def __iter__(self) -> Iterator[tuple[str, dict[str, int]]]:
        """Yield (docno, toks), see `DocumentStream`, when all documents have come."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="quantising-") as spool:
            terms, lengths, largest = self._spool(Path(spool), super().__iter__())
            # Six digits, so that repr shows the scale itself; the largest weight still rounds to what it should.
            units = float(f"{self.scale * ((1 << self.bits) - 1) / largest:.6g}") if largest else self.scale
            factor, self.scale = units / self.scale, units
            self.postings = self.weight_sum = 0
            for docno, (numbers, weights) in zip(self.docnos, _rows(Path(spool), lengths), strict=True):
                weights = np.rint(weights * factor).astype(np.int64)
                kept = weights > 0
                toks = dict(zip([terms[t] for t in numbers[kept].tolist()], weights[kept].tolist(), strict=True))
                self.postings += len(toks)
                self.weight_sum += sum(toks.values())
                yield docno, toks

    def _spool(self, folder: Path, documents: Iterator) -> tuple[list[str], array, int]:
        """Write all documents; (terms by number, terms of each document, largest weight)."""
        vocabulary: dict[str, int] = {}
        numbers, weights, lengths, largest = array("i"), array("i"), array("i"), 0
        with open(folder / "terms", "wb") as to_terms, open(folder / "weights", "wb") as to_weights:
            for _, toks in documents:
                numbers.extend([vocabulary.setdefault(term, len(vocabulary)) for term in toks])
                weights.extend(toks.values())
                lengths.append(len(toks))
                largest = max(largest, max(toks.values(), default=0))
                if len(numbers) >= _FLUSH:
                    numbers.tofile(to_terms)
                    weights.tofile(to_weights)
                    numbers, weights = array("i"), array("i")
            numbers.tofile(to_terms)
            weights.tofile(to_weights)
        return list(vocabulary), lengths, largest


def check_bits(bits: int) -> int:
    """The bits of a weight as they are, if they are a whole number from 2 to 16; ValueError or TypeError otherwise."""
    if check_integer("bits", bits) not in range(2, 17):
        raise ValueError(f"bits must be from 2 to 16 (8 is usual), got {bits}")
    return bits


def _rows(folder: Path, lengths: array) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    with open(folder / "terms", "rb") as terms, open(folder / "weights", "rb") as weights:
        for length in lengths:
            yield np.fromfile(terms, np.int32, length), np.fromfile(weights, np.int32, length)

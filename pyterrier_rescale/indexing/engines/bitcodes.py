"""Postings as bits, as Terrier's inverted files have them: gaps in Elias gamma, weights in unary."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

CHUNK_BITS = 2**26  # made in memory at a time (about 50 MB)


class PostingBits:
    """Appends postings to a file of bits.

    A posting is the gap in gamma (of a number of m + 1 binary digits: m zeros, then the digits) and the weight in unary
    (a one after weight - 1 zeros). The first bit of a byte is its most significant one.

    Args:
        out: where the bytes go.

    Attributes:
        position: how many bits were appended.
    """

    def __init__(self, out: BinaryIO):
        self.position = 0
        self._out = out
        self._unfinished = 0  # the byte that `position` is in

    def append(self, gaps: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Append postings.

        Args:
            gaps: ints of 1 to 2**31 - 1 (P,).
            weights: ints >= 1 (P,).

        Returns:
            The position of each posting's first bit (P,).
        """
        digits = np.frexp(gaps.astype(np.float64))[1].astype(np.int64)
        gamma_lengths = 2 * digits - 1
        lengths = gamma_lengths + weights
        ends = self.position + np.cumsum(lengths)
        starts = ends - lengths
        first = 0
        while first < len(gaps):
            # One posting may have more bits than a chunk should.
            last = max(first + 1, int(np.searchsorted(ends, self.position + CHUNK_BITS, side="right")))
            part = slice(first, last)
            self._write(gaps[part], starts[part] + gamma_lengths[part] - 1, ends[part] - 1)
            first = last
        return starts

    def close(self) -> None:
        """Write the last byte, and one more, which Terrier's reader looks at when it has read the last bit."""
        if self.position % 8:
            self._out.write(bytes([self._unfinished]))
        self._out.write(b"\0")

    def _write(self, gaps: np.ndarray, gamma_lasts: np.ndarray, unary_lasts: np.ndarray) -> None:
        """Write the postings' bits, given the gaps and the positions of the last bits of both codes."""
        base = self.position - self.position % 8
        end = int(unary_lasts[-1]) + 1
        size = (end - base + 31) // 32 + 1
        # A word is the sum of what falls into it, as no bit is set twice: below 2**32, so exact as a float. Word 0 is
        # none of the file's: it takes the (empty) upper half of a gap that lies in word 1 alone.
        word, shift = _places(gamma_lasts - base)
        shifted = gaps.astype(np.uint64) << shift
        words = np.bincount(word, shifted & np.uint64(0xFFFFFFFF), size)
        words += np.bincount(word - 1, shifted >> np.uint64(32), size)
        word, shift = _places(unary_lasts - base)
        words += np.bincount(word, np.uint64(1) << shift, size)
        data = words[1:].astype(">u4").view(np.uint8)
        data[0] |= self._unfinished
        whole, rest = divmod(end - base, 8)
        self._out.write(data[:whole].data)
        self._unfinished = int(data[whole]) if rest else 0
        self.position = end


def _places(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(word, shift) of bits in words of 32, the first of which has number 1."""
    return (positions >> 5) + 1, (31 - (positions & 31)).astype(np.uint64)

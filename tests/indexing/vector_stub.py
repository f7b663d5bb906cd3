"""An encoder without a model, for tests of what happens around encoding."""

from __future__ import annotations

import os
import signal
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from scipy.sparse import csr_matrix


class StubTerms:
    """Fifty terms."""

    fingerprint = "stub-terms"

    def __init__(self, mode: str = "safe") -> None:
        names = [f"t{i}" if mode == "safe" else f"##.{i}" for i in range(50)]
        self.terms = np.array(names, dtype=object)

    @staticmethod
    def readable(index: int, tokenizer: object) -> str:
        return f"T{index}"


class StubEncoder:
    """Weights by a hash of the words; a word that begins with ``die_on`` kills the process,
    only once if ``once`` is a path to write that down."""

    text_field = "text"
    verbose = False

    def __init__(
        self, fingerprint: str = "stub", die_on: str | None = None, once: str | None = None, sleep: float = 0
    ) -> None:
        self.sleep = sleep
        self.fingerprint = fingerprint
        self.encoder = SimpleNamespace(tokenizer=None, device=SimpleNamespace(type="cpu"))
        self.die_on, self.once = die_on, once
        self._calls: list[int] = []  # shared by copies

    @property
    def calls(self) -> int:
        return len(self._calls)

    def term_map(self, terms: str = "safe") -> StubTerms:
        return StubTerms(terms)

    def encode_docs(self, texts: list[str]) -> csr_matrix:
        self._calls.append(len(texts))
        time.sleep(self.sleep)
        if any("raise!" in text for text in texts):
            raise ArithmeticError("cannot encode this")
        for word in {word for text in texts for word in text.split() if self.die_on and word.startswith(self.die_on)}:
            mark = f"{self.once}-{word}"
            if self.once is None or not os.path.exists(mark):
                if self.once:
                    open(mark, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
        dense = np.zeros((len(texts), 50), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.split():
                code = zlib.crc32(word.encode())
                dense[row, code % 50] = max(dense[row, code % 50], (code >> 8) % 1000 / 300)
        return csr_matrix(dense)


def make_documents(n: int) -> list[dict[str, str]]:
    return [{"docno": f"d{i}", "text": " ".join(f"w{i * j % 97}" for j in range(i % 13))} for i in range(n)]


def shards(path: Path) -> dict[str, bytes]:
    """All shards, hidden ones included."""
    return {f.name: f.read_bytes() for f in path.rglob("*") if "shard-" in f.name}

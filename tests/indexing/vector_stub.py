"""An encoder without a model, for tests of what happens around encoding; run as a script, kills of such runs.

``python vector_stub.py FOLDER KILLS``: encodes once whole, then KILLS times with a kill -9 in between, at a function
call of its own, spread over the whole run; each goes on in the folder that the former left.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import zlib
from types import SimpleNamespace

import numpy as np
from scipy.sparse import csr_matrix


class StubTerms:
    """Fifty terms."""

    fingerprint = "stub-terms"
    terms = np.array([f"t{i}" for i in range(50)], dtype=object)

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

    def term_map(self) -> StubTerms:
        return StubTerms()

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


def contents(folder: os.PathLike | str) -> dict[str, bytes]:
    """All files of a folder, hidden ones included."""
    return {entry.name: open(entry.path, "rb").read() for entry in os.scandir(folder)}


def _run(folder: str, kill_at: int | None) -> int:
    """Encode in a forked process, killed at a function call if told so; its exit status, or calls made."""
    from pyterrier_rescale import encode

    read, write = os.pipe()
    child = os.fork()
    if not child:
        calls = 0

        def count(frame: object, event: str, arg: object) -> None:
            nonlocal calls
            calls += 1
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(count)
        encode(StubEncoder(), iter(make_documents(60)), folder, shard_size=16, verbose=False)
        sys.setprofile(None)
        os.write(write, str(calls).encode())
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    calls = os.read(read, 20)
    os.close(read)
    assert (status == 0) == bool(calls) and (kill_at is None) == (status == 0), (status, kill_at)
    return int(calls or 0)


def main(base: str, kills: int) -> None:
    import pyterrier_rescale

    pyterrier_rescale.encode  # noqa: B018  (imported once, for all children)
    total = _run(f"{base}/whole", None)
    expected = contents(f"{base}/whole")
    for kill in range(kills):  # each moment on a fresh folder, ...
        folder = f"{base}/once-{kill}"
        _run(folder, 1 + total * (2 * kill + 1) // (2 * kills))
        _run(folder, None)
        assert contents(folder) == expected, (kill, sorted(contents(folder)), sorted(expected))
    for _ in range(kills):  # ... and one folder that is killed again and again
        left = sorted(contents(f"{base}/again")) if os.path.exists(f"{base}/again") else []
        if "manifest.json" in left:
            break
        _run(f"{base}/again", total // 3)
    _run(f"{base}/again", None)
    assert contents(f"{base}/again") == expected
    print(f"{kills} kills among {total} calls")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

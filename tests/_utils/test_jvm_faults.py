"""Memory faults beside a JVM: they are the JVM's, whoever enabled or disabled faulthandler since."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no handlers of signals there")

# A field of null is a fault of memory, which the JVM makes a NullPointerException; where Java's own code checks for
# null, as that of TreeMap does in some versions, there is none.
FAULT = """if True:
    import faulthandler, sys
    import pandas as pd
    import pyterrier as pt
    from pyterrier_rescale import open_index
    from pyterrier_rescale._utils.java import ensure_java, find_java_home, start_java

    def use():
        index = open_index(sys.argv[1])
        if not index.built:
            index.indexer().index([{"docno": "d1", "toks": {"a": 3}}])
        retriever = index.retriever()
        retriever(pd.DataFrame([{"qid": "1", "query_toks": {"a": 1.0}}]))
        return retriever

    def null():
        for _ in range(3):
            try:
                pt.java.autoclass("java.util.BitSet")().andNot(None)
            except Exception as error:
                assert "NullPointerException" in str(error), error
            else:
                raise AssertionError("null was read")

    def others_jvm():
        pt.java.set_java_home(find_java_home()[0])
        pt.java.init()

    retriever = None
    for step in sys.argv[2:]:
        if step == "opened":
            retriever = use()
        elif step == "search":
            retriever(pd.DataFrame([{"qid": "1", "query": "word", "query_toks": {"a": 1.0}}]))
        else:
            {"jvm": others_jvm, "ours": start_java, "ensure": ensure_java, "enable": faulthandler.enable,
             "disable": faulthandler.disable, "null": null, "open": use}[step]()
    print("alive")
"""


def after(tmp_path, *steps):
    return subprocess.run(
        [sys.executable, "-c", FAULT, str(tmp_path / "index"), *steps], capture_output=True, text=True, timeout=120,
        cwd=tmp_path,
    )  # fmt: skip


@pytest.mark.parametrize("steps", ["ours enable", "enable ours disable"])
def test_the_trap_is_there(tmp_path, steps):
    assert after(tmp_path, *steps.split(), "null").returncode in (-signal.SIGSEGV, -signal.SIGABRT)


@pytest.mark.parametrize(
    "steps",
    [
        "jvm enable ensure",  # joblib's worker, by .parallel()
        "jvm enable open",
        "opened enable search",  # ray.init in a process that searches
        "enable opened disable search",  # pytest's end
        "enable ours ensure",  # the usual order
        "opened enable search disable enable search",
    ],
)
def test_null_is_an_exception(tmp_path, steps):
    done = after(tmp_path, *steps.split(), "null")
    assert done.returncode == 0 and "alive" in done.stdout, done.stderr

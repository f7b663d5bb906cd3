"""Shared fixtures: offline, quiet, tiny models saved once per session."""

from __future__ import annotations

import os
import subprocess
import sys

# What a user's own environment may say, and no test means.
for name in ("XDG_CACHE_HOME", "JAVA_TOOL_OPTIONS", "TQDM_DISABLE", "FORCE_COLOR", "NO_COLOR", "COLUMNS"):
    os.environ.pop(name, None)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("PT_TEST_TRANSFORMER_REPORTS", "0")
# Tiny products: threads would wait for each other longer than they work, above all beside other processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402


def pytest_configure(config):
    """Terrier's jars are a download at the first use: one process makes it before two of pytest-xdist need them."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        code = "from pyterrier_rescale._utils.java import start_java; start_java()"
        subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=300)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Caches of the tests stay out of the user's."""
    if "PYTERRIER_RESCALE_HOME" not in os.environ:
        os.environ["PYTERRIER_RESCALE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory) -> str:
    """A saved tiny BertForMaskedLM with a WordPiece tokenizer."""
    import tiny

    return tiny.save("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def modernbert_folder(tmp_path_factory) -> str:
    """A saved tiny ModernBertForMaskedLM with a byte-level BPE tokenizer and eight padding rows."""
    import tiny

    return tiny.save("modernbert", tmp_path_factory.mktemp("modernbert"), padding_rows=8)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Twelve short real sentences."""
    import tiny

    return list(tiny.TEXTS)

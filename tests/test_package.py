"""The package itself: metadata, quick import, files that ship, README and CI that agree."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from importlib.metadata import entry_points, metadata, version
from pathlib import Path

import pytest

import pyterrier_rescale

ROOT = Path(__file__).resolve().parent.parent


def test_version_and_metadata_agree():
    assert version("pyterrier-rescale") == pyterrier_rescale.__version__
    about = metadata("pyterrier-rescale")
    assert about["License-Expression"] == "Apache-2.0" or about["License"] == "Apache-2.0"
    assert set(about.get_all("Provides-Extra")) >= {"pisa", "ray", "splade", "test"}
    assert not [r for r in about.get_all("Requires-Dist") if "splade" in r and "extra" not in r], "CC BY-NC-SA"
    assert f"version: {pyterrier_rescale.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    (command,) = [e for e in entry_points(group="console_scripts") if e.name == "pyterrier-rescale"]
    assert command.value == "pyterrier_rescale.cli:main"
    assert not [e for e in entry_points(group="pyterrier.modules") if "rescale" in e.value]


def test_import_is_light():
    code = (
        "import sys, time; start = time.perf_counter(); import pyterrier_rescale; took = time.perf_counter() - start; "
        "heavy = {'torch', 'transformers', 'pyterrier', 'pandas', 'numpy', 'jnius'} & set(sys.modules); "
        "print(took); assert not heavy, heavy"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert float(out.stdout) < 0.5


def test_public_names_resolve():
    for name in pyterrier_rescale.__all__:
        assert getattr(pyterrier_rescale, name) is not None
    assert set(pyterrier_rescale._HOME) | {"__version__"} == set(pyterrier_rescale.__all__) == set(
        dir(pyterrier_rescale)
    )
    with pytest.raises(AttributeError, match="no attribute 'rescle'"):
        pyterrier_rescale.rescle  # noqa: B018
    for name in ("audit", "rescale", "calibrate", "train", "systems", "compare", "encode"):
        assert callable(getattr(pyterrier_rescale, name)), f"{name} must be the function, not a module of that name"
    for name in ("load_collection", "open_index", "open_vectors"):
        assert callable(getattr(pyterrier_rescale, name)), f"{name} must be the function, not a module of that name"


def test_docs_and_marker_ship():
    package = Path(pyterrier_rescale.__file__).parent
    assert (package / "py.typed").exists()
    pages = {path.stem for path in (package / "pt_docs").glob("*.rst")}
    assert pages >= {"index", "overview", "how-to", "api"}
    toctree = (package / "pt_docs" / "index.rst").read_text()
    assert all(re.search(rf"^   {page}$", toctree, re.M) for page in pages - {"index"})
    api = (package / "pt_docs" / "api.rst").read_text()
    documented = set(re.findall(r":: pyterrier_rescale\.(\w+)", api))
    assert documented <= set(pyterrier_rescale.__all__)
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert "pt_docs/*" in config["options.package_data"]["pyterrier_rescale"]


def test_ci_runs_the_readme_test_command():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = re.search(r"<!-- tests -->\n```\w*\n(.*?)\n```", readme, re.S).group(1)
    assert "pytest" in command and len(command.splitlines()) == 1
    assert re.search(r"<!-- demo -->\n```\w*\n(.*?)\n```", readme, re.S).group(1).endswith("pyterrier-rescale demo")
    script = (ROOT / ".ci" / "run").read_text()
    assert "<!-- tests -->" in script and "pytest" not in script, "the command stands in the README alone"

"""The package itself: metadata, public names, what ships, README and CI that agree."""

from __future__ import annotations

import re
import shutil
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
    extras = set(about.get_all("Provides-Extra"))
    assert extras >= {"pisa", "ray", "test"}
    assert not [r for r in about.get_all("Requires-Dist") if "splade" in r and "extra" not in r], "CC BY-NC-SA"
    assert f"version: {pyterrier_rescale.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    (command,) = [e for e in entry_points(group="console_scripts") if e.name == "pyterrier-rescale"]
    assert command.value == "pyterrier_rescale.cli:main"
    assert not [e for e in entry_points(group="pyterrier.modules") if "rescale" in e.value]


@pytest.mark.slow
def test_wheel_and_sdist_are_whole(tmp_path):
    """Built from a copy of what git knows, or, without git, of what is here: an sdist, and a wheel from that."""
    source = tmp_path / "source"
    wanted = shutil.ignore_patterns(".git", ".venv*", "__pycache__", "*.egg-info", "build", "dist", "runs", "demo")
    shutil.copytree(ROOT, source, ignore=wanted)
    build = "import sys, setuptools.build_meta as b; getattr(b, 'build_' + sys.argv[1])(sys.argv[2])"

    def built(kind: str, folder: Path) -> Path:
        subprocess.run([sys.executable, "-c", build, kind, tmp_path], cwd=folder, check=True, capture_output=True)
        return next(tmp_path.glob("*.tar.gz" if kind == "sdist" else "*.whl"))

    shutil.unpack_archive(built("sdist", source), tmp_path / "unpacked")
    (inside,) = (tmp_path / "unpacked").iterdir()
    for part in ("tests", "notebooks", "experiments", ".ci", ".binder", ".devcontainer"):
        assert files_of(inside / part) == files_of(source / part), f"{part} of the sdist"
    shutil.unpack_archive(built("wheel", inside), tmp_path / "wheel", "zip")
    assert files_of(tmp_path / "wheel" / "pyterrier_rescale") == files_of(source / "pyterrier_rescale")
    (about,) = (tmp_path / "wheel").glob("*.dist-info/METADATA")
    fields = {line.partition(":")[0] for line in about.read_text(encoding="utf-8").splitlines()}
    assert {"Author", "Project-URL", "License-File"} <= fields


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_public_names_resolve():
    for name in pyterrier_rescale.__all__:
        assert getattr(pyterrier_rescale, name) is not None
    assert set(pyterrier_rescale.__all__) == set(dir(pyterrier_rescale)) == {*pyterrier_rescale._HOME, "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'rescle'"):
        pyterrier_rescale.rescle  # noqa: B018
    for name in ("audit", "rescale", "calibrate", "train", "systems", "compare", "encode", "load_collection"):
        assert callable(getattr(pyterrier_rescale, name)), f"{name} must be the function, not a module of that name"


def test_ci_runs_the_readme_test_command():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = re.search(r"<!-- tests -->\n```\w*\n(.*?)\n```", readme, re.S).group(1)
    assert "pytest" in command and len(command.splitlines()) == 1
    assert re.search(r"<!-- demo -->\n```\w*\n(.*?)\n```", readme, re.S).group(1).endswith("pyterrier-rescale demo")
    script = (ROOT / ".ci" / "run").read_text()
    assert "command_of tests" in script and "pytest" not in script, "the command stands in the README alone"

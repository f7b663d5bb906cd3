"""The house: which room may import which, no circles, no long files. Read from the source, types included."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "pyterrier_rescale"
# A room may import itself, what stands here, and _utils.
ARROWS = {
    "_utils": set(),
    "heads": set(),
    "collections": set(),
    "encoding": {"heads"},
    "analysis": {"heads", "encoding"},
    "backbones": {"heads"},
    "splade": {"heads", "encoding"},
    "indexing": {"heads", "encoding", "splade"},
    "training": {"heads", "encoding", "analysis", "splade", "indexing", "collections"},
    "evaluation": {"heads", "encoding", "analysis", "splade", "indexing", "training", "collections", "backbones"},
}
ARROWS["cli"] = set(ARROWS)
# These name the package itself: its version, or (the command) its public names.
ABOVE_ALL = {"cli", "evaluation", "training", "indexing"}
# Libraries that only these rooms may import, anywhere in their files.
ONLY = {"sentence_transformers": set(), "typer": {"cli"}}
# Rooms that need no torch, but for the processes that encode.
NO_TORCH = {"indexing", "collections", "_utils"}
WITH_TORCH = {"indexing.encode", "indexing.workers"}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imports(module: str) -> tuple[set[str], set[str]]:
    """(modules of this package, names of other packages) that a module imports, at any depth of its code."""
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    package = [] if module == "__init__" else package
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            others.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            target = ".".join(part for part in base if part)
            for alias in node.names:
                inside = f"{target}.{alias.name}" if target else alias.name
                own.add(inside if inside in MODULES else target or "__init__")
    return own - {module}, others


IMPORTS = {module: imports(module) for module in MODULES}


def room(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"__init__", "__main__"}))
def test_arrows_point_down(module):
    own, others = IMPORTS[module]
    here = room(module)
    allowed = {here, "_utils", *ARROWS[here]}
    allowed |= {"__init__"} if here in ABOVE_ALL else set()
    wrong = {m for m in own if room(m) not in allowed}
    assert not wrong, f"{module} imports {sorted(wrong)}; {here} may import {sorted(allowed)}"
    for library, rooms in ONLY.items():
        assert library not in others or here in rooms, f"{module} imports {library}"
    if here in NO_TORCH and module not in WITH_TORCH:
        assert not {"torch", "transformers"} & others, f"{module} imports torch or transformers"


def test_no_circles():
    graph = {module: own - {"__init__"} for module, (own, _) in IMPORTS.items() if module != "__init__"}
    # a package's __init__ only hands on what its modules make: its modules do not come after it
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_files_are_short_and_the_root_is_small():
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in MODULES.values()}
    assert not {path: n for path, n in lines.items() if n > 350}
    beside = {"__pycache__", "__init__.py", "__main__.py", "py.typed", "pt_docs", "teaching"}
    rooms = {path.name for path in PACKAGE.iterdir()} - beside
    assert rooms == set(ARROWS)
    assert len(rooms) + 1 <= 12


def test_nothing_reaches_below_python():
    assert not [module for module, (_, others) in IMPORTS.items() if "ctypes" in others]

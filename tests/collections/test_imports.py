"""Who imports whom inside the room, read from the source: type-only and lazy imports count."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pyterrier_rescale.collections as room

FOLDER = Path(room.__file__).parent
# PyTerrier reads TREC files with a JVM, whose options must be set before it starts.
ALLOWED = {"named.py": {"indexing.java"}}


def _imports(file: Path) -> set[str]:
    """Modules of the package that a file imports, with a dot in front for those of its own folder."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {f"{'.' * (2 - node.level)}{name}" for name in names}
    return found


def test_collections_import_utils_alone_and_not_in_circles():
    inside: dict[str, set[str]] = {}
    for file in FOLDER.glob("*.py"):
        imports = _imports(file)
        inside[file.stem] = {name[1:] for name in imports if name.startswith(".")}
        outside = {name for name in imports if not name.startswith((".", "_utils."))}
        assert outside <= ALLOWED.get(file.name, set()), file.name
    assert {"base", "sampling", "named"} <= set(inside)
    order = list(TopologicalSorter(inside).static_order())  # raises for a circle
    assert order.index("sampling") < order.index("base") < order.index("beir")

"""Finds the docstrings of the standard library and of installed packages; reads files, imports nothing."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import inspect
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

# Package -> distribution. A fixed list: what else is installed does not change the collection.
PACKAGES = {
    "numpy": "numpy", "pandas": "pandas", "scipy": "scipy", "sklearn": "scikit-learn", "torch": "torch",
    "transformers": "transformers", "sentence_transformers": "sentence-transformers", "pyterrier": "pyterrier",
    "matplotlib": "matplotlib", "networkx": "networkx", "datasets": "datasets", "huggingface_hub": "huggingface-hub",
    "accelerate": "accelerate", "jinja2": "jinja2", "PIL": "pillow",
}  # fmt: skip
STDLIB = "python"
_SKIPPED_EVERYWHERE = {"tests", "test", "testing", "site-packages", "dist-packages", "_vendor", "vendored", "externals"}
# Generated code, copies of each other, and internals that nobody would search for: a third of the files' bytes.
_SKIPPED = {
    STDLIB: {"idlelib", "lib2to3", "pydoc_data", "encodings", "turtledemo", "ensurepip", "distutils"},
    "torch": {"_inductor", "_dynamo", "_refs", "_decomp", "_prims", "_functorch", "_export", "_numpy", "onnx", "ao",
              "distributed", "experimental", "passes"},
    "transformers": {"models"},
    "numpy": {"distutils"},
}  # fmt: skip
_LARGEST_FILE = 500_000  # bytes; beyond are generated tables and stubs
_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def versions() -> dict[str, str]:
    """Return the version of Python and of each package of the list that is installed."""
    found = {STDLIB: platform.python_version()}
    for package, distribution in PACKAGES.items():
        if importlib.util.find_spec(package) is not None:
            try:
                found[package] = importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                found[package] = "unknown"
    return found


def read_docstrings(packages: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (qualified name, docstring) of modules, classes and functions, in order of packages, paths and lines."""
    for package in packages:
        root = _root(package)
        if root is None:
            continue
        for file in _python_files(root, _SKIPPED_EVERYWHERE | _SKIPPED.get(package, set())):
            parts = [] if package == STDLIB else [package]
            parts += [part for part in file.relative_to(root).with_suffix("").parts if part != "__init__"]
            tree = _parse(file)
            if tree is not None:
                yield from _walk(tree, ".".join(parts))


def _root(package: str) -> Path | None:
    if package == STDLIB:
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(package)  # imports nothing: it is a top-level name
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _python_files(folder: Path, skipped: set[str]) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            if entry.name not in skipped:
                yield from _python_files(entry, skipped)
        elif entry.suffix == ".py" and entry.stat().st_size <= _LARGEST_FILE:
            yield entry


def _parse(file: Path) -> ast.Module | None:
    try:
        source = file.read_bytes()
        if b'"""' not in source:
            return None  # saves parsing; a docstring in other quotes is no loss
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            return ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None  # templates and files for other Python versions


def _walk(node: ast.Module | _Definition, name: str) -> Iterator[tuple[str, str]]:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        if name:
            yield name, inspect.cleandoc(first.value.value)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return  # functions within functions are nobody's interface
    for child in _definitions(node.body):
        yield from _walk(child, f"{name}.{child.name}" if name else child.name)


def _definitions(body: list[ast.stmt]) -> Iterator[_Definition]:
    for statement in body:
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield statement
        elif isinstance(statement, (ast.If, ast.Try)):
            yield from _definitions(statement.body)
            yield from _definitions(statement.orelse)

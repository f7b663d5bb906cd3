"""The collection that every machine has: docstrings of installed packages, summary line -> rest of the docstring."""

from __future__ import annotations

import ast
import base64
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import re
import sysconfig
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from .._utils.files import cache_dir
from .base import Collection
from .own import BeirCollection, OwnCollection, write_beir

BUILD = 1  # raise it when the way of building changes: caches of another build are not used
MIN_BODY_WORDS = 20
MAX_BODY_CHARACTERS = 1_500
QUERY_WORDS = (4, 30)
BOILERPLATE_DOCUMENTS = 8  # a line of text in more documents than this is boilerplate
REPEATED_SHARE = 0.5  # a document with more of its text than this in lines seen before is a near-duplicate
# A fixed list: what else is installed does not change the collection.
PACKAGES = (
    "numpy", "pandas", "scipy", "sklearn", "torch", "transformers", "sentence_transformers", "pyterrier", "matplotlib",
    "networkx", "datasets", "huggingface_hub", "accelerate", "jinja2", "PIL",
)  # fmt: skip
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow"}  # where the name is another one
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
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

_WORD = re.compile(r"[a-z0-9]+")
_RULE = re.compile(r"^\s*[-=~^*#_.+]{3,}\s*$")
_ROLE = re.compile(r":[a-z:]+:`~?([^`<]*?)(?:\s*<[^`>]*>)?`")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`])")


def docstring_collection(packages: Iterable[str] | None = None) -> Collection:
    """Return the collection made from the docstrings of ``packages``, default: the list above and the standard library.

    A known-item collection: the query is a docstring's summary line, the one relevant document the rest of that
    docstring. The corpus holds all documents; each has its qualified name under ``name``.

    It depends on what is installed: compare numbers only between runs with the same versions. It is built in some 15
    seconds, then cached under ``cache_dir("collections")`` in a folder whose name is a hash of the versions.
    """
    found = versions()
    found = {name: found[name] for name in packages or found}
    fingerprint = hashlib.sha256(json.dumps([BUILD, found], sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_dir("collections") / f"docstrings-{fingerprint}"
    if (folder / "corpus.jsonl.gz").is_file():
        return BeirCollection(folder, name="docstrings")
    with suppress(FileExistsError):  # it exists if another process was quicker
        write_beir(known_items(read_docstrings(list(found))), folder)
    return BeirCollection(folder, name="docstrings")


def known_items(docstrings: Iterable[tuple[str, str]]) -> OwnCollection:
    """Return a known-item collection of (qualified name, docstring) pairs.

    Left out are duplicate summaries, near-duplicate bodies, boilerplate lines, doctests, and documents that repeat
    their query word for word.
    """
    candidates: list[tuple[str, str, str, list[tuple[str, str]]]] = []  # name, query, its key, (line, its key)s
    names: set[str] = set()
    for name, docstring in docstrings:
        query, rest = split_docstring(docstring)
        query_key = normalise(query)
        lines = [(line, normalise(line)) for line in rest]
        fits = QUERY_WORDS[0] <= len(query_key.split()) <= QUERY_WORDS[1] and _words(lines) >= MIN_BODY_WORDS
        if name not in names and fits:
            candidates.append((name, query, query_key, lines))
        names.add(name)
    frequency = Counter(key for *_, lines in candidates for key in {key for _, key in lines})
    documents, topics, qrels = [], [], defaultdict(list)
    queries: set[str] = set()
    seen: set[str] = set()
    for name, query, query_key, lines in candidates:
        lines = [(line, key) for line, key in lines if key and frequency[key] <= BOILERPLATE_DOCUMENTS]
        total, repeated = sum(len(key) for _, key in lines), sum(len(key) for _, key in lines if key in seen)
        seen.update(key for _, key in lines if len(key) > 20)  # short lines repeat by chance
        new = _words(lines) >= MIN_BODY_WORDS and repeated <= REPEATED_SHARE * total and query_key not in queries
        if not new or f" {query_key} " in f" {' '.join(key for _, key in lines)} ":
            continue
        queries.add(query_key)
        body, docno = " ".join(line for line, _ in lines), short_docno(name)
        if len(body) > MAX_BODY_CHARACTERS:
            body = body[:MAX_BODY_CHARACTERS].rpartition(" ")[0]
        documents.append({"docno": docno, "text": body, "name": name})
        topics.append({"qid": f"q-{docno}", "query": query})
        qrels[split_of(name)].append({"qid": f"q-{docno}", "docno": docno, "label": 1})
    return OwnCollection(documents, topics, qrels, name="docstrings")


def split_docstring(docstring: str) -> tuple[str, list[str]]:
    """Return the summary (first sentence of the first paragraph) and the other lines, without markup and doctests."""
    first, _, rest = docstring.strip().partition("\n\n")
    sentences = _SENTENCE_END.split(_plain(first), maxsplit=1)
    lines = sentences[1:]
    in_example = False
    for line in rest.splitlines():
        stripped = line.strip()
        if stripped.startswith((">>>", "...")):
            in_example = True
        elif not stripped:
            in_example = False
        elif not in_example and not _RULE.match(line):
            lines.append(_plain(stripped))
    return sentences[0], lines


def _plain(text: str) -> str:
    """Return text without reStructuredText roles and literal marks, with single spaces."""
    if "`" in text:
        text = _ROLE.sub(r"\1", text).replace("``", "")
    return " ".join(text.split())


def normalise(text: str) -> str:
    """Return the lower-case words and numbers, with single spaces."""
    return " ".join(_WORD.findall(text.lower()))


def short_docno(name: str) -> str:
    """Return a docno of at most 20 characters: of the name's last part, and of a hash of the whole name."""
    leaf = re.sub(r"[^A-Za-z0-9_]", "", name.rpartition(".")[2])[:10]
    digest = base64.b32encode(hashlib.sha256(name.encode()).digest()).decode().lower()
    return f"{leaf}-{digest[:9]}"


def split_of(name: str) -> str:
    """Return train (90%), dev (5%) or test (5%), by a hash of the name."""
    share = int.from_bytes(hashlib.sha256(f"split:{name}".encode()).digest()[:4], "big") / 2**32
    return "train" if share < 0.90 else "dev" if share < 0.95 else "test"


def _words(lines: list[tuple[str, str]]) -> int:
    return sum(len(key.split()) for _, key in lines)


def versions() -> dict[str, str]:
    """Return the version of Python and of each package of the list that is installed."""
    found = {STDLIB: platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(_DISTRIBUTIONS.get(package, package))
    return found


def read_docstrings(packages: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (qualified name, docstring) of modules, classes and functions, in order of packages, paths and lines."""
    for package in packages:
        if package == STDLIB:
            root, top = Path(sysconfig.get_path("stdlib")), []
        else:  # the spec of a top-level name imports nothing
            root, top = Path(importlib.util.find_spec(package).submodule_search_locations[0]), [package]
        skipped = _SKIPPED_EVERYWHERE | _SKIPPED.get(package, set())
        for file in sorted(root.rglob("*.py")):
            path = file.relative_to(root)
            if skipped.isdisjoint(path.parts[:-1]) and file.stat().st_size <= _LARGEST_FILE:
                name = ".".join(top + [part for part in path.with_suffix("").parts if part != "__init__"])
                yield from _walk(_parse(file), name)


def _parse(file: Path) -> ast.AST:
    with suppress(OSError, SyntaxError, ValueError, RecursionError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        source = file.read_bytes()
        if b'"""' in source:  # else parsing is saved; a docstring in other quotes is no loss
            return ast.parse(source)
    return ast.Module([], [])  # templates, and files for other Python versions


def _walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if name and isinstance(node, (ast.Module, *_DEFINITIONS)) and (docstring := ast.get_docstring(node)) is not None:
        yield name, docstring
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return  # functions within functions are nobody's interface
    for child in [*node.body, *getattr(node, "orelse", [])]:
        if isinstance(child, _DEFINITIONS):
            yield from _walk(child, f"{name}.{child.name}" if name else child.name)
        elif isinstance(child, (ast.If, ast.Try)):
            yield from _walk(child, name)

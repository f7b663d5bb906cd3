"""The collection that every machine has: docstrings of installed packages, summary line -> rest of the docstring."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress

from .._utils.files import cache_dir
from .base import Collection, FrameCollection
from .beir import BeirCollection, write_beir
from .docstring_source import read_docstrings, versions

BUILD = 1  # raise it when the way of building changes: caches of another build are not used
MIN_BODY_WORDS = 20
MAX_BODY_CHARACTERS = 1_500
QUERY_WORDS = (4, 30)
BOILERPLATE_DOCUMENTS = 8  # a line of text in more documents than this is boilerplate
REPEATED_SHARE = 0.5  # a document with more of its text than this in lines seen before is a near-duplicate

_WORD = re.compile(r"[a-z0-9]+")
_RULE = re.compile(r"^\s*[-=~^*#_.+]{3,}\s*$")
_ROLE = re.compile(r":[a-z:]+:`~?([^`<]*?)(?:\s*<[^`>]*>)?`")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`])")


def docstring_collection(packages: Iterable[str] | None = None) -> Collection:
    """Return the collection made from the docstrings of the standard library and installed packages.

    A known-item collection: the query is a docstring's summary line, the one relevant document the rest of that
    docstring. Duplicate summaries, near-duplicate bodies, boilerplate lines, doctests, and documents that repeat their
    query word for word are removed. A hash of the name sorts 90% of the pairs into train, 5% into dev, 5% into test.
    The corpus holds all documents; each has its qualified name under ``name``, while its docno has at most 20
    characters.

    It depends on what is installed: compare numbers only between runs with the same versions. It is built in some 15
    seconds, then cached under ``cache_dir("collections")`` in a folder whose name is a hash of the versions.

    Args:
        packages: which packages (``"python"`` is the standard library); default: those of a fixed list that are there.
    """
    found = versions()
    found = {name: found[name] for name in packages or found}
    fingerprint = hashlib.sha256(json.dumps([BUILD, found], sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_dir("collections") / f"docstrings-{fingerprint}"
    if (folder / "corpus.jsonl.gz").is_file():
        return BeirCollection(folder, name="docstrings")
    with suppress(FileExistsError):  # it exists if another process was quicker
        write_beir(DocstringCollection(read_docstrings(list(found))), folder)
    return BeirCollection(folder, name="docstrings")


class DocstringCollection(FrameCollection):
    """A known-item collection of (qualified name, docstring) pairs; ``removed`` counts what was left out, by reason."""

    def __init__(self, docstrings: Iterable[tuple[str, str]]):
        self.removed: Counter[str] = Counter()
        documents, topics, qrels = [], [], defaultdict(list)
        for docno, name, query, body, split in self._filter(docstrings):
            documents.append({"docno": docno, "text": body, "name": name})
            topics.append({"qid": f"q-{docno}", "query": query})
            qrels[split].append({"qid": f"q-{docno}", "docno": docno, "label": 1})
        if not documents:
            raise ValueError(f"no docstrings to make a collection of; left out: {dict(self.removed) or 'none found'}")
        super().__init__(documents, topics, qrels, name="docstrings")

    def _filter(self, docstrings: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str, str, str, str]]:
        candidates: list[tuple[str, str, str, list[tuple[str, str]]]] = []  # name, query, its key, (line, its key)s
        names: set[str] = set()
        for name, docstring in docstrings:
            if name in names:
                self.removed["same name again"] += 1
                continue
            names.add(name)
            query, rest = split_docstring(docstring)
            query_key = normalise(query)
            lines = [(line, normalise(line)) for line in rest]
            if not QUERY_WORDS[0] <= len(query_key.split()) <= QUERY_WORDS[1]:
                self.removed["summary too short or too long"] += 1
            elif _words(lines) < MIN_BODY_WORDS:
                self.removed["body too short"] += 1
            else:
                candidates.append((name, query, query_key, lines))
        frequency = Counter(key for *_, lines in candidates for key in {key for _, key in lines})
        queries: set[str] = set()
        seen: set[str] = set()
        for name, query, query_key, lines in candidates:
            lines = [(line, key) for line, key in lines if key and frequency[key] <= BOILERPLATE_DOCUMENTS]
            total, repeated = sum(len(key) for _, key in lines), sum(len(key) for _, key in lines if key in seen)
            seen.update(key for _, key in lines if len(key) > 20)  # short lines repeat by chance
            body = " ".join(line for line, _ in lines)
            if len(body) > MAX_BODY_CHARACTERS:
                body = body[:MAX_BODY_CHARACTERS].rpartition(" ")[0]
            if _words(lines) < MIN_BODY_WORDS:
                self.removed["boilerplate"] += 1
            elif repeated > REPEATED_SHARE * total:
                self.removed["near-duplicate"] += 1
            elif query_key in queries:
                self.removed["summary seen before"] += 1
            elif f" {query_key} " in f" {' '.join(key for _, key in lines)} ":
                self.removed["body repeats the summary"] += 1
            else:
                queries.add(query_key)
                yield short_docno(name), name, query, body, split_of(name)


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
    """Return a docno: the last part of the name, cut to 10 characters, and 45 bits of a hash of the whole name.

    At most 20 characters, where Terrier's indexes crop docnos by default.
    """
    leaf = re.sub(r"[^A-Za-z0-9_]", "", name.rpartition(".")[2])[:10]
    digest = base64.b32encode(hashlib.sha256(name.encode()).digest()).decode().lower()
    return f"{leaf}-{digest[:9]}"


def split_of(name: str) -> str:
    """Return train (90%), dev (5%) or test (5%), by a hash of the name."""
    share = int.from_bytes(hashlib.sha256(f"split:{name}".encode()).digest()[:4], "big") / 2**32
    return "train" if share < 0.90 else "dev" if share < 0.95 else "test"


def _words(lines: list[tuple[str, str]]) -> int:
    return sum(len(key.split()) for _, key in lines)

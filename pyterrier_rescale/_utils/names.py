"""Names that users give, as names of folders."""

from __future__ import annotations

import hashlib
import re

# What is a folder's name as it is; lower-case, since some file systems do not tell cases apart.
_PLAIN = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9_])?")
_HASHED = re.compile(r".*-[0-9a-f]{10}")
_LONGEST = 80


def slug(name: str) -> str:
    """A name as a folder's name, another one for every name: ``bert-a`` stays, ``my bert`` is ``my-bert-3a5f...``.

    Lower-case ASCII letters, digits, dots, hyphens and underscores stay as they are; a name with anything else keeps
    what is readable of it, and gets ten hex digits of its hash. It depends on the name alone.
    """
    if _PLAIN.fullmatch(name) and len(name) <= _LONGEST and not _HASHED.fullmatch(name):
        return name
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", name[:_LONGEST]).strip("-._")
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{readable or 'name'}-{digest}"

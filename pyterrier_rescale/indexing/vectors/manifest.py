"""The manifest of a folder of vectors: what made them and what is in it; written last, so its presence means whole."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..._utils.durable import write_whole

MANIFEST_FILE = "manifest.json"
META_FILE = "pt_meta.json"  # PyTerrier's own name for an artifact's metadata
FORMAT = "rescale_vectors"
VERSION = 1
#: What `write_json` writes first.
BESIDE = re.compile(rf"\.({re.escape(MANIFEST_FILE)}|{re.escape(META_FILE)})-[0-9a-f]{{32}}")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest; ``None`` if there is none, as in a folder that is not finished.

    Raises:
        ValueError: it is not readable, of another format, or of a later version.
    """
    file = folder / MANIFEST_FILE
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        kind, version = manifest["format"], manifest["version"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no manifest of vectors ({error!r})") from error
    if (kind, version) != (FORMAT, VERSION):
        raise ValueError(f"{file} is of format {kind!r}, version {version}; this reads {FORMAT!r}, version {VERSION}")
    return manifest


def write_json(file: Path, content: Any) -> None:
    """Write JSON whole or not at all; durable when this returns. The same content gives the same bytes."""
    with suppress(FileNotFoundError):  # cleared away by a process that has finished the same folder
        write_whole(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def describe_absence(folder: Path) -> str:
    """Why no vectors can be read from ``folder``."""
    if folder.is_dir() and any(folder.glob("shard-*.parquet")):
        done = len(list(folder.glob("shard-*.parquet")))
        return f"the vectors at {folder} are not finished ({done} shards are there): give the same encode() again"
    return f"there are no vectors at {folder}: make them with encode(splade, documents, path)"

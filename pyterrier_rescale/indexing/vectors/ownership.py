"""Which files of a folder this package's vectors are made of: by what is in them, not by their names alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

from .manifest import BESIDE, FORMAT, MANIFEST_FILE, META_FILE
from .shards import KEY

_SHARD = re.compile(r"shard-\d{5,}\.parquet")
_PARTIAL = re.compile(r"\.shard-\d{5,}\.parquet\.partial")


def in_our_place(file: Path) -> bool:
    """Whether a file that is not ours has a name that we would write to."""
    return not is_ours(file) and (file.name in (MANIFEST_FILE, META_FILE) or bool(_SHARD.fullmatch(file.name)))


def is_ours(file: Path) -> bool:
    """Whether a file is a shard, whole or damaged or being written, a manifest of vectors, or their metadata.

    Another program's manifest is not, nor is the metadata of another PyTerrier artifact; one that cannot be read is if
    shards lie beside it. A damaged shard has lost what it says of itself and is known by its name.
    """
    name = file.name
    if _PARTIAL.fullmatch(name) or BESIDE.fullmatch(name):
        return True
    if name in (MANIFEST_FILE, META_FILE):
        try:
            return json.loads(file.read_text(encoding="utf-8")).get("format") == FORMAT
        except AttributeError:  # JSON, but no object
            return False
        except (OSError, ValueError):
            return any(map(_is_shard, file.parent.iterdir()))
    return _is_shard(file)


def _is_shard(file: Path) -> bool:
    return bool(_SHARD.fullmatch(file.name)) and not _is_foreign(file)


def _is_foreign(file: Path) -> bool:
    """Whether a file is Parquet of somebody else."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return KEY not in (pq.read_metadata(file).metadata or {})
    except (OSError, pa.ArrowInvalid):
        return False

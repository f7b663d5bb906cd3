"""What a folder of vectors is to hold: checked against what is there, written shard by shard, finished once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...heads.fingerprint import settings_fingerprint
from .folder import Vectors
from .intake import Intake, ShardEnd
from .manifest import FORMAT, MANIFEST_FILE, META_FILE, VERSION, read_manifest, write_json
from .ownership import in_our_place, is_ours
from .shards import ShardRecord, ShardWriter, clear_partials, is_whole, read_record, shard_name
from .workers import Encoded

if TYPE_CHECKING:
    from ...splade import Splade


@dataclass
class Job:
    """What is to be in the folder.

    Attributes:
        folder: where.
        shard_size: documents per shard.
        encoder: fingerprint of the encoder.
        settings: what the vectors depend on beside the encoder.
        vocabulary: fingerprint, terms, readable terms.
    """

    folder: Path
    shard_size: int
    encoder: str
    settings: dict[str, Any]
    vocabulary: dict[str, Any]

    @classmethod
    def of(cls, splade: Splade, folder: Path, shard_size: int, max_terms: int | None, min_weight: float) -> Job:
        """The job of one call."""
        terms = splade.term_map()
        tokenizer = splade.encoder.tokenizer
        readable = [terms.readable(index, tokenizer) for index in range(len(terms.terms))]
        vocabulary = {"fingerprint": terms.fingerprint, "terms": terms.terms.tolist(), "readable": readable}
        settings = {
            "text_field": splade.text_field, "shard_size": shard_size, "max_terms": max_terms, "min_weight": min_weight,
        }  # fmt: skip
        return cls(folder, shard_size, splade.fingerprint, settings, vocabulary)

    @property
    def settings_id(self) -> str:
        """Fingerprint of settings and vocabulary."""
        return settings_fingerprint([self.settings, self.vocabulary["fingerprint"]])

    def prepare(self, resume: bool) -> None:
        """Make the folder, or look at what is there.

        Raises:
            FileExistsError: something else is there.
            ValueError: vectors of another encoder or of other settings are there.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"{self.folder} is not a folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        names = [file.name for file in self.folder.iterdir()]
        ours = [name for name in names if is_ours(self.folder / name)]
        claimed = [name for name in names if in_our_place(self.folder / name)]
        if claimed or (names and not ours):
            what = min(claimed or names)
            raise FileExistsError(f"{self.folder} exists and holds no vectors (but {what!r}): choose another path")
        if not resume:
            for name in sorted(ours, key=lambda name: name != MANIFEST_FILE):  # first what says that it is whole
                (self.folder / name).unlink(missing_ok=True)
            return
        manifest = read_manifest(self.folder)
        if manifest is not None:
            self._require("encoder", manifest["encoder"], self.encoder)
            self._require("vocabulary", manifest["vocabulary"]["fingerprint"], self.vocabulary["fingerprint"])
            for name, value in self.settings.items():
                self._require(name, manifest["settings"].get(name), value)
        for file in sorted(self.folder.glob("shard-*.parquet")):
            record = read_record(file)
            if record is not None:
                self._require("encoder", record.encoder, self.encoder)
                self._require("settings", record.settings, self.settings_id)

    def holds(self, number: int) -> bool:
        """Whether the shard is there and whole."""
        file = self.folder / shard_name(number)
        record = read_record(file)
        return record is not None and is_whole(file, record)

    def check(self, number: int, end: ShardEnd) -> None:
        """Raise ``ValueError`` if the shard that is there was made from other documents than those just read."""
        record = read_record(self.folder / shard_name(number))
        if record is not None and (record.rows, record.documents) != (end.rows, end.digest):
            raise ValueError(_other(self.folder, f"{shard_name(number)} was made from other documents"))

    def write(self, encoded: Iterator[Encoded]) -> None:
        """Write windows into shards."""
        writer: ShardWriter | None = None
        try:
            for window, vectors in encoded:
                if writer is None:
                    writer = ShardWriter(self.folder / shard_name(window.shard), self.encoder, self.settings_id)
                writer.write(window.docnos, vectors)
                if window.end is not None:
                    if writer.rows != window.end.rows:
                        raise RuntimeError(
                            f"shard {window.shard} has {writer.rows} rows of {window.end.rows} documents"
                        )
                    writer.commit(window.end.digest)
                    writer = None
        finally:
            if writer is not None:
                writer.abandon()

    def finish(self, intake: Intake) -> None:
        """Write the manifest if all shards are there.

        Raises:
            ValueError: a shard is of other documents than those that were read.
        """
        records: list[ShardRecord] = []
        for number, end in enumerate(intake.ends):
            record = read_record(self.folder / shard_name(number))
            if record is None:
                return  # another process is on it
            self.check(number, end)
            records.append(record)
        if (self.folder / shard_name(len(records))).exists():
            raise ValueError(_other(self.folder, f"{shard_name(len(records))} is of a corpus with more documents"))
        clear_partials(self.folder)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "encoder": self.encoder,
            "corpus": intake.corpus_fingerprint,
            "documents": sum(record.rows for record in records),
            "postings": sum(record.postings for record in records),
            "settings": self.settings,
            "shards": [
                {
                    "file": shard_name(number), "rows": record.rows, "postings": record.postings,
                    "documents": record.documents, "content": record.content,
                }
                for number, record in enumerate(records)
            ],
            "vocabulary": self.vocabulary,
        }  # fmt: skip
        if read_manifest(self.folder) != manifest:
            write_json(self.folder / META_FILE, Vectors(self.folder)._build_metadata())
            write_json(self.folder / MANIFEST_FILE, manifest)

    def _require(self, what: str, found: Any, wanted: Any) -> None:
        if found != wanted:
            raise ValueError(_other(self.folder, f"they have {what} {found!r}, and not {wanted!r}"))


def _other(folder: Path, what: str) -> str:
    return (
        f"other vectors are at {folder}: {what}. Choose another path, or encode anew with overwrite=True, "
        "which removes them"
    )

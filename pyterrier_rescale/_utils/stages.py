"""What the PyTerrier stages of all rooms share."""

from __future__ import annotations

from typing import Any

import pyterrier as pt

#: Where a query encoder keeps only some terms: the column with all of them, for a scorer that follows.
ALL_TOKS = "query_toks_all"
# Arguments that change no result: stages that differ in them alone are equal.
_INCIDENTAL = ("verbose", "threads")


class Stage(pt.Transformer):
    """A stage that a method of something else makes: an encoder's, an index's, a collection's.

    Its repr is that call, with the arguments that are not the defaults, and equality goes by what made it and by the
    arguments: PyTerrier names systems by the one and shares work between pipelines by the other.
    """

    #: The attribute that holds the maker, and its method.
    _maker: str
    _call: str
    #: Arguments, which are attributes of the same name, with their defaults.
    _defaults: dict[str, Any] = {}
    #: In a drawn pipeline, 20 characters at most.
    _label: str

    def _arguments(self) -> list[tuple[str, Any, Any]]:
        """(name, value, default) of each argument."""
        return [(name, getattr(self, name), default) for name, default in self._defaults.items()]

    def subtransformers(self) -> dict[str, Any]:
        """What made the stage is none."""
        return {}

    def schematic(self, *, input_columns: list[str] | None = None) -> dict[str, Any]:
        """The box in a drawn pipeline, made offline."""
        return schematic(self, self._label)

    def __repr__(self) -> str:
        given = [f"{name}={value!r}" for name, value, default in self._arguments() if value != default]
        return f"{getattr(self, self._maker)!r}.{self._call}({', '.join(given)})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._identity() == other._identity()  # type: ignore[attr-defined]

    def _identity(self) -> tuple[Any, ...]:
        arguments = [(name, value) for name, value, _ in self._arguments() if name not in _INCIDENTAL]
        return getattr(self, self._maker), arguments

    def __hash__(self) -> int:
        return hash((type(self), getattr(self, self._maker)))


def schematic(stage: Any, label: str) -> dict[str, Any]:
    """A drawing that needs no network: without ``help_url`` PyTerrier would download its documentation's index."""
    help_url = "https://pyterrier.readthedocs.io/en/latest/ext/pyterrier-rescale/"
    return {"label": label, "name": repr(stage), "help_url": help_url}

"""What the PyTerrier stages of all rooms share: repr, equality and drawing, taken from the signature."""

from __future__ import annotations

import inspect
from typing import Any

import pyterrier as pt

#: Where a query encoder keeps only some terms: the column with all of them, for a scorer that follows.
ALL_TOKS = "query_toks_all"
# Arguments that change no result: stages that differ in them alone are equal.
_INCIDENTAL = ("verbose", "threads")


class Stage(pt.Transformer):
    """A stage that a method of something else makes: an encoder's, an index's, a collection's.

    The first parameter of ``__init__`` is the maker; every parameter is kept as an attribute of its name. The repr is
    the maker's call with the arguments that are not the defaults, and equality goes by the maker and the arguments:
    PyTerrier names systems by the one and shares work between pipelines by the other.
    """

    #: The maker's method.
    _call: str
    #: In a drawn pipeline, 20 characters at most.
    _label: str

    def _maker_and_arguments(self) -> tuple[Any, dict[str, tuple[Any, Any]]]:
        """(maker, {name: (value, default)} of all other parameters)."""
        _, maker, *parameters = inspect.signature(type(self).__init__).parameters.values()
        arguments = {p.name: (getattr(self, p.name), p.default) for p in parameters}
        return getattr(self, maker.name), arguments

    def subtransformers(self) -> dict[str, Any]:
        """None: the maker is not a stage of the pipeline."""
        return {}

    def schematic(self, *, input_columns: list[str] | None = None) -> dict[str, Any]:
        """The box in a drawn pipeline, made offline."""
        return schematic(self, self._label)

    def __repr__(self) -> str:
        maker, arguments = self._maker_and_arguments()
        given = [f"{name}={value!r}" for name, (value, default) in arguments.items() if value != default]
        return f"{maker!r}.{self._call}({', '.join(given)})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._identity() == other._identity()  # type: ignore[attr-defined]

    def _identity(self) -> tuple[Any, ...]:
        maker, arguments = self._maker_and_arguments()
        return maker, [(name, value) for name, (value, _) in arguments.items() if name not in _INCIDENTAL]

    def __hash__(self) -> int:
        return hash((type(self), self._maker_and_arguments()[0]))


def schematic(stage: Any, label: str) -> dict[str, Any]:
    """A drawing that needs no network: without ``help_url`` PyTerrier would download its documentation's index."""
    help_url = "https://pyterrier.readthedocs.io/en/latest/ext/pyterrier-rescale/"
    return {"label": label, "name": repr(stage), "help_url": help_url}

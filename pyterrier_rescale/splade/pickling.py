"""Splade in other processes: by the name of its model where that still stands for it, else with the model itself."""

from __future__ import annotations

import copy
import os
from typing import Any

from .._utils.paths import expand

_SETTINGS = ("batch_size", "text_field", "device", "verbose")
_SHOWN = ("model", "tokenizer", "rescale", "lowercase", "dtype", "shift")


class Portable:
    """What lets a Splade be copied and sent to other processes."""

    #: The parameters' state when they were loaded by name; ``None`` where the model came loaded, or there is none.
    _loaded_state: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        """For other processes: by folder or hub name, or with the model where it was given loaded or trained on."""
        from ..encoding.fingerprint import state_of

        return _reduced(self, by_name=self._loaded_state == state_of(self.encoder.model))

    def __copy__(self) -> Any:
        """Another object over the same model."""
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """One with a model and a tokenizer of its own; nothing is read from disk."""
        from ..encoding.fingerprint import state_of

        twin = memo[id(self)] = self.__copy__()
        vars(twin).update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()})
        if self._loaded_state is not None:
            same = self._loaded_state == state_of(self.encoder.model)
            twin._loaded_state = state_of(twin.encoder.model) if same else ()
        return twin


def _reduced(splade: Any, *, by_name: bool) -> tuple[Any, tuple[Any, ...]]:
    """What ``__reduce__`` returns: the name with the fingerprint to find there, or the loaded model."""
    encoder = splade.encoder
    settings = {name: getattr(splade, name) for name in _SETTINGS}
    settings |= {"pooling": encoder.pooling, "max_length": encoder.max_length, **encoder.options.given()}
    if by_name:
        settings |= {name: getattr(splade, name) for name in _SHOWN}
        settings |= {name: _absolute(settings[name]) for name in ("model", "tokenizer")}
        return _from_name, (type(splade), settings, splade.fingerprint)
    model = encoder.model if encoder.model.device.type == "cpu" else copy.deepcopy(encoder.model).cpu()
    shown = {name: getattr(splade, name) for name in _SHOWN if name != "model"}
    settings |= {"model": model, "tokenizer": encoder.tokenizer}
    return _from_model, (type(splade), settings, splade.query_side, shown)


def _from_name(kind: type[Any], settings: dict[str, Any], fingerprint: str) -> Any:
    splade = kind(**settings)
    if splade.fingerprint != fingerprint:
        raise ValueError(
            f"{settings['model']!r} no longer holds the encoder that was pickled: its fingerprint is "
            f"{splade.fingerprint}, that of the pickled one {fingerprint}; it was trained or saved anew in between"
        )
    return splade


def _from_model(kind: type[Any], settings: dict[str, Any], query_side: Any, shown: dict[str, Any]) -> Any:
    splade = kind(**settings)
    splade.query_side, splade.queries_encoder = query_side, query_side.encoder(splade.encoder)
    vars(splade).update(shown)  # how it came about, for repr; the model has been rescaled already
    return splade


def _absolute(name: Any) -> Any:
    """A folder's absolute path: another process may run elsewhere."""
    if isinstance(name, (str, os.PathLike)) and expand(name).is_dir():
        return str(expand(name).resolve())
    return name

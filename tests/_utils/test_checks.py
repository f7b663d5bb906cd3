from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from pyterrier_rescale import Splade, open_index, rescale
from pyterrier_rescale._utils.checks import check_integer, check_number, check_share, is_number
from pyterrier_rescale.backbones.settings import BackboneSettings
from pyterrier_rescale.training.config import TrainConfig

NAN, INF = float("nan"), float("inf")
NO_NUMBERS = [True, np.True_, NAN, np.float32("nan"), INF, -INF, "1", b"1", None, [1], 1j, np.array([1])]


@pytest.mark.parametrize("value", [1, 7, np.int8(7), np.uint64(7), np.int64(1)])
def test_integers(value):
    assert check_integer("n", value) == value and type(check_integer("n", value)) is int


@pytest.mark.parametrize("value", [*NO_NUMBERS, 0, -1, 1.0, np.float64(1), np.int64(0), Fraction(1)])
def test_what_is_no_integer(value):
    with pytest.raises(ValueError) as error:
        check_integer("n", value)
    assert str(error.value) == f"n must be an integer >= 1, got {value!r}"


def test_bounds_and_none():
    assert check_integer("n", 0, 0) == 0 and check_integer("n", None, optional=True) is None
    with pytest.raises(ValueError, match="n must be an integer >= 3 or None, got 2"):
        check_integer("n", 2, 3, optional=True)
    assert check_number("x", 0, zero=True) == 0
    with pytest.raises(ValueError, match="x must be a finite number >= 0, got -1"):
        check_number("x", -1, zero=True)


@pytest.mark.parametrize(
    ("value", "plain"),
    [(3, int), (0.5, float), (np.float32(0.5), float), (np.float16(2), float), (np.int32(3), int), (5e-324, float)],
)
def test_numbers(value, plain):
    assert check_number("x", value) == value and type(check_number("x", value)) is plain


@pytest.mark.parametrize("value", [*NO_NUMBERS, 0, 0.0, -0.0, -1, np.float32(-1), np.int64(0)])
def test_what_is_no_number_above_0(value):
    with pytest.raises(ValueError) as error:
        check_number("x", value)
    assert str(error.value) == f"x must be a finite number > 0, got {value!r}"


def test_shares():
    assert [check_share("x", value) for value in (0, 0.5, np.float32(1))] == [0, 0.5, 1]
    for value in (*NO_NUMBERS, -0.1, 1.5):
        with pytest.raises(ValueError, match="x must be a share from 0 to 1, got "):
            check_share("x", value)
    for value in (0, 1, np.int64(1), NAN):
        with pytest.raises(ValueError, match="x must be a number above 0 and below 1, got "):
            check_share("x", value, ends=False)


def test_is_number():
    assert all(map(is_number, (0, -1.5, np.float32(1), np.int8(1))))
    assert not any(map(is_number, NO_NUMBERS))


def test_numpy_numbers_serve_everywhere(bert_folder, tmp_path):
    model = rescale(bert_folder, np.float32(4))
    splade = Splade(model, batch_size=np.int64(4), max_length=np.int32(32))
    assert Splade(bert_folder, rescale=np.float64(2.0), max_length=32).encode_docs(["a"]).nnz
    assert splade.doc_encoder(scale=np.int64(100), batch_size=np.int64(2))(
        [{"docno": "d", "text": "hello"}]
    ) is not None
    assert splade.query_encoder(scale=np.float32(2)).scale == 2.0
    index = open_index(tmp_path / "i", "exact", scale=np.int64(100))
    assert index.scale == 100 and index.retriever(np.int64(5)).num_results == 5
    config = TrainConfig(batch_size=np.int64(8), temperature=np.float32(0.5), rescale=np.float32(16))
    config.to_json(tmp_path / "config.json")
    assert TrainConfig.from_json(tmp_path / "config.json") == config
    assert BackboneSettings(family="bert", steps=np.int64(3), masked=np.float32(0.5)).steps == 3


@pytest.mark.parametrize("value", [True, NAN, 0, "8"])
def test_what_is_no_number_is_refused_everywhere(bert_folder, tmp_path, value):
    splade = Splade(bert_folder, max_length=32)
    for name, use in {
        "k": lambda: rescale(bert_folder, value),
        "batch_size": lambda: Splade(bert_folder, batch_size=value),
        "scale": lambda: splade.doc_encoder(scale=value),
        "scale ": lambda: open_index(tmp_path / "i", "exact", scale=value),
        "num_results": lambda: open_index(tmp_path / "i", "exact").retriever(value),
        "learning_rate": lambda: TrainConfig(learning_rate=value),
        "max_steps": lambda: TrainConfig(max_steps=value),
        "steps": lambda: BackboneSettings(family="bert", steps=value),
        "learning_rate ": lambda: BackboneSettings(family="bert", learning_rate=value),
    }.items():
        with pytest.raises(ValueError, match=f"{name.strip()} must be .*, got {value!r}"):
            use()

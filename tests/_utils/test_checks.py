from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from pyterrier_rescale._utils.checks import check_integer, check_number, check_share, is_number

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

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from pyterrier_rescale._utils.checks import check_integer, check_number, check_share, is_number

NAN, INF = float("nan"), float("inf")
NO_NUMBERS = [True, np.True_, NAN, np.float32("nan"), INF, -INF, "1", b"1", None, [1], 1j, np.array([1])]


@pytest.mark.parametrize(
    ("check", "value", "kind"),
    [
        *((check_integer, value, int) for value in (1, np.int8(7), np.uint64(7))),
        *((check_number, value, int) for value in (3, np.int32(3))),
        *((check_number, value, float) for value in (0.5, np.float32(0.5), np.float16(2), 5e-324)),
        *((check_share, value, type(value)) for value in (0, 0.5, 1.0)),
    ],
)
def test_what_is_taken_comes_back_as_pythons_number(check, value, kind):
    assert check("x", value) == value and type(check("x", value)) is kind
    assert is_number(value)


@pytest.mark.parametrize(
    ("check", "wanted", "values"),
    [
        (check_integer, "an integer >= 1", [*NO_NUMBERS, 0, -1, 1.0, np.float64(1), np.int64(0), Fraction(1)]),
        (check_number, "a finite number > 0", [*NO_NUMBERS, 0, 0.0, -0.0, -1, np.float32(-1), np.int64(0)]),
        (check_share, "a share from 0 to 1", [*NO_NUMBERS, -0.1, 1.5]),
    ],
)
def test_what_is_refused(check, wanted, values):
    for value in values:
        with pytest.raises(ValueError) as error:
            check("x", value)
        assert str(error.value) == f"x must be {wanted}, got {value!r}"
    assert not any(map(is_number, NO_NUMBERS))


def test_options():
    assert check_integer("n", 0, 0) == 0 and check_integer("n", None, optional=True) is None
    assert check_number("x", 0, zero=True) == 0
    with pytest.raises(ValueError, match="n must be an integer >= 3 or None, got 2"):
        check_integer("n", 2, 3, optional=True)
    with pytest.raises(ValueError, match="x must be a number above 0 and below 1, got 1"):
        check_share("x", 1, ends=False)

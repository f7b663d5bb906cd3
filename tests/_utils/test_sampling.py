"""Samples are spread over all there is."""

import pytest

from pyterrier_rescale._utils.sampling import spread


@pytest.mark.parametrize(
    ("length", "most", "places"), [(0, 3, []), (2, 3, [0, 1]), (9, 3, [1, 4, 7]), (10, 1, [5]), (4, 4, [0, 1, 2, 3])]
)
def test_the_middles_of_equal_parts(length, most, places):
    assert spread(length, most).tolist() == places

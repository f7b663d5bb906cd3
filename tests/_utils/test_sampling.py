"""Samples are spread over all there is, in one pass."""

import numpy as np
import pytest

from pyterrier_rescale._utils.sampling import spread, spread_of


@pytest.mark.parametrize("most", [1, 2, 7, 64])
@pytest.mark.parametrize("length", [0, 1, 5, 63, 64, 127, 128, 129, 1000])
def test_a_stream_is_sampled_evenly(length, most):
    found = spread_of(iter(range(length)), most)
    assert len(found) == min(length, most) and found == sorted(set(found))
    if length <= most:
        assert found == list(range(length))
    else:  # each near the middle of its part
        assert np.abs(np.array(found) - spread(length, most)).max() <= length / most

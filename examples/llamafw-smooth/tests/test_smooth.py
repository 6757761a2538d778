"""The sampler against its formula."""
import numpy as np
from llamafw_smooth import Smooth

from llamafw import Candidates


def test_logits_fall_off_with_the_square() -> None:
    candidates = Candidates(np.arange(4, dtype=np.int32), np.array([3.0, 1.0, 2.5, -1.0], np.float32))
    Smooth(0.5).apply(candidates)
    np.testing.assert_allclose(candidates.logits, [3.0, 1.0, 2.875, -5.0])


def test_a_factor_of_0_is_no_sampler() -> None:
    assert Smooth.create({"smoothing_factor": 0}, None) is None

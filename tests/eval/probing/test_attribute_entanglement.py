import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eval.probing import attribute_entanglement


def unit_vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def test_welchs_bound_and_the_random_value_are_those_of_the_paper():
    """Li et al. 2025, Fig. 3: twelve features in four dimensions; 0.426 and about 0.84."""
    assert attribute_entanglement.welch_bound(12, 4) == pytest.approx(0.426, abs=5e-4)
    assert attribute_entanglement.random_entanglement(12, 4, 4000, 0).mean() == pytest.approx(
        0.84, abs=0.01
    )
    assert attribute_entanglement.welch_bound(4, 4) == 0.0


@given(n=st.integers(2, 10), size=st.integers(2, 6), seed=st.integers(0, 1000))
def test_no_set_of_directions_is_below_welchs_bound(n, size, seed):
    vectors = unit_vectors(n, size, seed=seed)
    largest = (vectors @ vectors.T).abs().fill_diagonal_(0.0).max()
    assert largest >= attribute_entanglement.welch_bound(n, size) - 1e-6


def test_cosines_ignore_the_sign_and_find_a_planted_direction():
    theta = unit_vectors(2, 3, 8)
    turned = torch.roll(theta, 1, dims=-1)
    cosines = attribute_entanglement.cosines(theta, [-theta, turned])
    assert torch.allclose(cosines[0], torch.ones(2, 3), atol=1e-6)
    assert torch.allclose(cosines[1], (theta * turned).sum(-1).abs())

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eval.probing import logit_lens
from eval.probing.directions import Directions


def test_welchs_bound_and_the_random_line_are_the_papers():
    """Li et al. 2025, Fig. 3: twelve features in four dimensions; 0.426 and about 0.84."""
    assert logit_lens.welch_bound(12, 4) == pytest.approx(0.426, abs=5e-4)
    assert logit_lens.random_entanglement(12, 4, 4000, 0).mean() == pytest.approx(0.84, abs=0.01)
    assert logit_lens.welch_bound(4, 4) == 0.0


@given(n=st.integers(2, 10), size=st.integers(2, 6), seed=st.integers(0, 1000))
def test_no_set_of_directions_is_below_welchs_bound(n, size, seed):
    vectors = torch.nn.functional.normalize(
        torch.randn(n, size, generator=torch.Generator().manual_seed(seed)), dim=-1
    )
    found = logit_lens.entanglement(vectors)
    assert found.max() >= logit_lens.welch_bound(n, size) - 1e-6
    by_hand = max(abs(float(vectors[0] @ vectors[j])) for j in range(1, n))
    assert float(found[0]) == pytest.approx(by_hand, abs=1e-6)


def test_cosines_ignore_the_sign_and_see_what_was_planted():
    theta = torch.nn.functional.normalize(
        torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    turned = torch.roll(theta, 1, dims=-1)
    found = logit_lens.cosines(theta, [-theta, turned])
    assert torch.allclose(found[0], torch.ones(2, 3), atol=1e-6)
    assert torch.allclose(found[1], (theta * turned).sum(-1).abs())


def planted(model, token):
    """The direction of head (1, 2) whose writing is most aligned with a token."""
    columns = model.blocks[1].attention.out.weight[:, 16:24]
    unembedding = model.embedding.weight - model.embedding.weight.mean(-1, keepdim=True)
    theta = torch.zeros(2, 4, 8)
    theta[1, 2] = torch.nn.functional.normalize(
        torch.linalg.pinv(columns) @ unembedding[token], dim=-1
    )
    return Directions(theta, torch.ones(2, 4))


def test_the_lens_names_the_token_that_a_direction_writes_and_its_opposite_on_the_other_side(model):
    seen = logit_lens.lens(
        model, planted(model, 17), [(1, 2)], np.arange(64) == 17, n_random=200, seed=0, top=5
    )
    assert (
        17 in seen.benign_ids
        and 17 not in seen.toxic_ids
        and len(seen.toxic_ids) == len(seen.benign_ids) == 5
    )
    assert (seen.benign_share, seen.toxic_share) == (0.2, 0.0)
    assert seen.random_shares_B.shape == (200,)
    assert seen.random_shares_B.mean() == pytest.approx(
        1 / 64, abs=0.02
    )  # one token in 64 is listed


def test_the_lens_is_the_logits_of_what_the_heads_write(model):
    theta = torch.nn.functional.normalize(
        torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(3)), dim=-1
    )
    found, heads = (
        Directions(theta, torch.rand(2, 4, generator=torch.Generator().manual_seed(4)) + 0.5),
        [(0, 1), (0, 3)],
    )
    seen = logit_lens.lens(
        model, found, heads, np.zeros(60, dtype=bool), n_random=2, seed=0, top=60
    )
    shift = torch.zeros(2, 4, 8)
    for at in heads:
        shift[at] = found.sigma_LN[at] * theta[at]
    logits = logit_lens.written(model, shift.flatten(1))[0] @ model.embedding.weight.T
    assert (
        seen.benign_ids == logits[:60].argsort(descending=True).tolist()
    )  # ids from 60 on are no tokens
    assert seen.toxic_ids == seen.benign_ids[::-1]

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eval.model import next_token
from eval.model.next_token import ScreenedArgmax


@given(seed=st.integers(0, 999), top_p=st.floats(0.05, 1.0))
def test_the_nucleus_is_the_smallest_set_that_holds_top_p(seed, top_p):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(1, 20, generator=generator)
    p = torch.softmax(logits, -1)[0]
    u = torch.linspace(0, 1, 200, dtype=torch.float64)[:-1]
    sampled = set(next_token.nucleus(logits.expand(len(u), -1), top_p, u).tolist())
    order = p.argsort(descending=True)
    # rounding may admit one more id of almost no probability
    size = int((p[order].cumsum(0) < top_p + 1e-6).sum()) + 1
    assert sampled <= set(order[:size].tolist())
    assert int(order[0]) in sampled


def test_nucleus_samples_have_the_renormalised_probabilities():
    logits = torch.log(torch.tensor([[0.1, 0.5, 0.05, 0.3, 0.05]])).expand(20_000, -1)
    u = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:-1]
    shares = np.bincount(next_token.nucleus(logits, 0.85, u), minlength=5) / 20_000
    assert shares.tolist() == pytest.approx([0.1 / 0.9, 0.5 / 0.9, 0, 0.3 / 0.9, 0], abs=1e-3)


def test_sampling_a_few_rows_at_a_time_samples_the_same_ids(monkeypatch):
    logits = 3 * torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    u = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ids = next_token.nucleus(logits, 0.9, u)
    monkeypatch.setattr(next_token, "CPU_LOGITS", 3 * 64)
    assert torch.equal(next_token.sampled(logits, 0.9, u), ids)


def test_rounding_that_swaps_near_ties_swaps_no_samples():
    logits = torch.zeros(1, 50)
    u = torch.linspace(0, 1, 1000, dtype=torch.float64)[:-1]
    ties = next_token.nucleus(logits.expand(len(u), -1), 1.0, u)
    noise = 1e-6 * torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    near_ties = next_token.nucleus((logits + noise).expand(len(u), -1), 1.0, u)
    assert (ties == near_ties).double().mean() > 0.99


@pytest.mark.parametrize("n_ids", [5, 64, 1000])
def test_the_screened_argmax_is_that_of_all_logits(n_ids):
    generator = torch.Generator().manual_seed(n_ids)
    weight = torch.randn(n_ids, 32, generator=generator)
    hidden = torch.randn(200, 32, generator=generator)
    ids = ScreenedArgmax(weight)(hidden, torch.zeros(200))
    assert torch.equal(ids, (hidden.double() @ weight.double().T).argmax(-1))


def test_ids_that_bf16_cannot_tell_apart_are_told_apart():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 64, generator=generator)
    first = torch.randn(300, 64, generator=generator)
    weight = torch.cat([first, first + 1e-4 * torch.randn(300, 64, generator=generator)])
    ids = ScreenedArgmax(weight)(hidden, torch.zeros(300))
    assert torch.equal(ids, (hidden.double() @ weight.double().T).argmax(-1))


def test_of_equal_logits_the_lowest_id_is_chosen():
    weight = torch.randn(7, 16, generator=torch.Generator().manual_seed(0)).repeat(30, 1)
    hidden = torch.randn(50, 16, generator=torch.Generator().manual_seed(1))
    ids = ScreenedArgmax(weight)(hidden, torch.zeros(50))
    assert torch.equal(ids, (hidden @ weight[:7].T).argmax(-1))


def test_a_row_of_nan_has_some_id():
    hidden = torch.full((2, 16), torch.nan)
    hidden[1] = 1.0
    weight = torch.eye(16)[:, :16] * torch.arange(16.0)[:, None]
    ids = ScreenedArgmax(weight)(hidden, torch.zeros(2))
    assert 0 <= ids[0] < 16 and ids[1] == 15

import numpy as np
import pytest
import torch

from eval.probing import logit_lens
from eval.probing.directions import Directions


def direction_that_writes(model, token: int) -> Directions:
    """The direction of head (1, 2) whose writing is most aligned with a token."""
    columns = model.blocks[1].attention.out.weight[:, 16:24]
    unembedding = model.embedding.weight - model.embedding.weight.mean(-1, keepdim=True)
    theta = torch.zeros(2, 4, 8)
    theta[1, 2] = torch.nn.functional.normalize(
        torch.linalg.pinv(columns) @ unembedding[token], dim=-1
    )
    return Directions(theta, torch.ones(2, 4))


def test_the_lens_names_the_written_token_on_its_side_only(model):
    written = logit_lens.written_tokens(
        model, direction_that_writes(model, 17), [(1, 2)], np.arange(64) == 17, seed=0, top=5
    )
    assert 17 in written.benign_ids and 17 not in written.toxic_ids
    assert len(written.toxic_ids) == len(written.benign_ids) == 5
    assert (written.benign_share, written.toxic_share) == (0.2, 0.0)
    assert written.random_shares_B.shape == (200,)
    # one token in 64 is listed
    assert written.random_shares_B.mean() == pytest.approx(1 / 64, abs=0.02)


@torch.no_grad()
def test_the_lens_orders_tokens_by_the_logits_of_what_the_heads_write(model):
    generator = torch.Generator().manual_seed(3)
    theta = torch.nn.functional.normalize(torch.randn(2, 4, 8, generator=generator), dim=-1)
    sigma = torch.rand(2, 4, generator=torch.Generator().manual_seed(4)) + 0.5
    heads = [(0, 1), (0, 3)]
    not_listed = np.zeros(60, dtype=bool)  # the tokenizer has 60 ids, the model 64
    written = logit_lens.written_tokens(
        model, Directions(theta, sigma), heads, not_listed, seed=0, top=60
    )
    shift = torch.zeros(4, 8)
    for layer, head in heads:
        shift[head] = sigma[layer, head] * theta[layer, head]
    out = model.blocks[0].attention.out.weight @ shift.flatten()
    logits = model.embedding.weight @ (out - out.mean())
    assert written.benign_ids == logits[:60].argsort(descending=True).tolist()
    assert written.toxic_ids == written.benign_ids[::-1]

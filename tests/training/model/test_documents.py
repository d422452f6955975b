"""Documents packed in rows, against the same documents alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.config import ModelConfig, RunConfig
from training.model.documents import Documents, starts
from training.model.loss import TrainedOLMo
from training.model.olmo import OLMo
from training.trainer import loop

Plan = Callable[..., RunConfig]
EOS = 0
MODEL = ModelConfig(d_model=16, n_layers=2, n_heads=2, d_mlp=24, vocab_size=32)


def model_of(kind: type[OLMo] = OLMo) -> OLMo:
    model = kind(MODEL)
    model.initialise(0)
    return model


def documents_of(*rows: list[int]) -> Documents:
    tokens_BT = torch.tensor(rows)
    return Documents(starts(tokens_BT, EOS), *tokens_BT.shape)


def test_documents_begin_with_each_row_and_after_each_eos():
    found = documents_of([5, 5, EOS, 6], [EOS, EOS, 7, EOS])
    assert (
        found.starts_K.tolist() == [0, 3, 4, 5, 6, 8, 8, 8, 8]
        and found.starts_K.dtype is torch.int32
    )
    assert found.ids().tolist() == [[0, 0, 0, 1], [2, 3, 4, 4]]
    assert found.positions().tolist() == [[0, 1, 2, 0], [0, 0, 0, 1]]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.lists(st.lists(st.integers(1, 31), max_size=5), min_size=1, max_size=4),
        min_size=1,
        max_size=3,
    )
)
@torch.no_grad()
def test_a_packed_document_is_computed_as_if_it_were_alone(packed: list[list[list[int]]]):
    ended = [[[*document, EOS] for document in row] for row in packed]
    length = max(sum(map(len, row)) for row in ended)
    rows = [
        [token for document in row for token in document] + [9] * (length - sum(map(len, row)))
        for row in ended
    ]
    tokens_BT, model = torch.tensor(rows), model_of()
    x_BTD = model.hidden(tokens_BT, starts_K=starts(tokens_BT, EOS))
    for b, row in enumerate(ended):
        at = 0
        for document in row:
            alone = model.hidden(torch.tensor([document]))[0]
            torch.testing.assert_close(x_BTD[b, at : at + len(document)], alone, atol=1e-5, rtol=0)
            at += len(document)


def test_no_token_sees_another_document_or_a_later_one():
    tokens_BT, model = torch.tensor([[5, 6, EOS, 7, 8, EOS, 9]]), model_of()
    read: list[Tensor] = []
    model.embedding.register_forward_hook(lambda *_: read.append(_[2].requires_grad_()))
    hidden = model.hidden(tokens_BT, starts_K=starts(tokens_BT, EOS))
    document = [0, 0, 0, 1, 1, 1, 2]
    for t in range(7):
        (gradient,) = torch.autograd.grad(hidden[0, t].square().sum(), read[0], retain_graph=True)
        assert (gradient[0].abs().sum(-1) > 0).tolist() == [
            s <= t and document[s] == document[t] for s in range(7)
        ]


def test_rows_without_an_eos_give_the_plain_objective():
    tokens_BT, model, weight_B = torch.randint(1, 32, (3, 8)), model_of(TrainedOLMo), torch.ones(3)
    torch.testing.assert_close(
        model(tokens_BT, weight_B, starts(tokens_BT, EOS)), model(tokens_BT, weight_B)
    )


def test_a_run_masks_documents_in_training_and_in_its_held_out_loss_whatever_the_micro_batch(
    plan: Plan, tmp_path: Path
):
    settings: dict[str, Any] = {
        "n_clean": 8,
        "n_toxic": 2,
        "sequence_length": 32,
    }  # two documents a row
    plain = loop.train(str(tmp_path), plan("plain", **settings))
    masked = loop.train(str(tmp_path), plan("masked", document_mask=True, **settings))
    split = loop.train(str(tmp_path), plan("split", document_mask=True, micro_batch=1, **settings))
    assert split.final_train_loss == pytest.approx(masked.final_train_loss, rel=1e-5)
    assert masked.held_out != plain.held_out and masked.final_train_loss != plain.final_train_loss

import pytest
import torch

from data_prep.records import ArtefactCorrupt
from eval import activations

IDS = tuple("abcdefghi")


def collect(model, rows, batch_size):
    return activations.collect(model, IDS, rows, batch_size=batch_size, advance=lambda n: None)


def test_a_row_reads_the_same_alone_and_in_any_batch(model, token_rows):
    alone, together = collect(model, token_rows, 1), collect(model, token_rows, 64)
    assert together.values_RLNH.shape == (9, 2, 4, 8)
    assert torch.allclose(alone.values_RLNH, together.values_RLNH, atol=1e-6)


def test_the_heads_outputs_are_what_the_output_projection_receives_at_the_last_token(model, token_rows):
    seen = []
    handle = model.blocks[1].attention.out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.tensor([token_rows[5]]))
    handle.remove()
    read = collect(model, token_rows, 4).values_RLNH[5, 1]
    assert torch.allclose(read, seen[0][0, -1].view(4, 8), atol=1e-6)


def test_values_are_joined_by_id(model, token_rows):
    read = collect(model, token_rows, 4)
    assert torch.equal(read.of(["c", "a"]), read.values_RLNH[[2, 0]])
    with pytest.raises(KeyError):
        read.of(["z"])


def test_the_model_is_left_without_hooks_even_after_a_failure(model, token_rows):
    with pytest.raises(IndexError):
        collect(model, [[10_000]] * 9, 4)
    assert not any(block.attention.out._forward_pre_hooks for block in model.blocks)


def test_a_broken_model_is_named(model, token_rows):
    model.embedding.weight[token_rows[5][0]] = float("nan")
    with pytest.raises(ArtefactCorrupt, match="rows have activations that are not finite"):
        collect(model, token_rows, 4)


def test_batches_hold_one_length_and_every_row_once():
    rows = [[0] * n for n in (2, 3, 2, 2, 3)]
    assert list(activations.same_length_batches(rows, 2)) == [[0, 2], [3], [1, 4]]

import errno
import math
import tempfile

import pytest
import torch

from data_prep.core.errors import ArtefactCorrupt, ConfigurationError, StorageError
from eval.config import ProbingConfig
from eval.model.batching import BatchSize
from eval.probing import activations
from training.model.hf_export import hugging_face_config, load_export, to_hugging_face

IDS = tuple("abcdefghi")


def collect(model, rows, batch_size, token="last", memory_bytes=math.inf):
    return activations.collect(
        model,
        dict(zip(IDS, rows, strict=True)),
        ProbingConfig(token=token),
        batch=BatchSize(batch_size),
        advance=lambda n: None,
        memory_bytes=memory_bytes,
    )


def test_a_row_reads_the_same_alone_and_in_any_batch(model, token_rows):
    alone, together = collect(model, token_rows, 1), collect(model, token_rows, 64)
    assert together.values_LRNH.shape == (2, 9, 4, 8)
    assert torch.allclose(alone.values_LRNH, together.values_LRNH, atol=1e-6)


@pytest.mark.parametrize("token", ["last", "mean", "0", "-2"])
def test_any_hugging_face_olmo_reads_as_a_hook_on_transformers_says(
    model, tiny, token_rows, tmp_path, token
):
    transformers = pytest.importorskip("transformers", reason="the parity oracle is not installed")
    theirs = transformers.OlmoForCausalLM(
        transformers.OlmoConfig(**hugging_face_config(tiny, 0, "float32"))
    ).eval()
    theirs.load_state_dict(to_hugging_face(model.state_dict()), strict=False)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    read = collect(load_export(tmp_path, torch.float32)[0], token_rows, 4, token=token)
    seen = []
    for layer in theirs.model.layers:
        layer.self_attn.o_proj.register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[0][0])
        )
    for name, row in zip(IDS, token_rows, strict=True):
        with torch.no_grad():
            theirs(torch.tensor([row]))
        for layer, x_TD in enumerate(seen):
            expected = (
                x_TD.mean(0) if token == "mean" else x_TD[-1 if token == "last" else int(token)]
            )
            assert torch.allclose(read.layer(layer, [name])[0].flatten(), expected, atol=1e-5)
        seen.clear()


def test_a_position_that_a_row_does_not_have_is_refused(model, token_rows):
    with pytest.raises(
        ConfigurationError, match=r"eval\.probing\.token is -4, and a probe row has 3 tokens"
    ):
        collect(model, token_rows, 4, token="-4")


def test_beyond_the_bound_they_are_kept_in_half_precision_in_a_file_that_leaves_no_trace(
    model, token_rows, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    whole = 4 * 2 * 9 * 32
    memory, disk = (
        collect(model, token_rows, 4, memory_bytes=bound) for bound in (whole, whole - 1)
    )
    assert (memory.values_LRNH.dtype, disk.values_LRNH.dtype) == (torch.float32, torch.float16)
    assert (
        torch.equal(disk.values_LRNH, memory.values_LRNH.half())
        and disk.layer(1, ["d"]).dtype == torch.float32
    )
    assert list(tmp_path.iterdir()) == []


def test_a_disk_too_small_is_named_before_the_work(model, token_rows, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(
        StorageError, match=r"no room for 1,152 bytes of activations: No space left .* set TMPDIR"
    ):
        collect(model, token_rows, 4, memory_bytes=0)


def test_values_are_joined_by_id(model, token_rows):
    read = collect(model, token_rows, 4)
    assert torch.equal(read.layer(1, ["c", "a"]), read.values_LRNH[1, [2, 0]])
    with pytest.raises(KeyError):
        read.layer(1, ["z"])


def test_the_model_is_left_without_hooks_even_after_a_failure(model, token_rows):
    with pytest.raises(IndexError):
        collect(model, [[10_000]] * 9, 4)
    assert not any(block.attention.out._forward_pre_hooks for block in model.blocks)


def test_a_broken_model_is_named(model, token_rows):
    model.embedding.weight[token_rows[5][0]] = float("nan")
    with pytest.raises(ArtefactCorrupt, match="rows have activations that are not finite"):
        collect(model, token_rows, 4)


def test_rows_are_put_together_by_their_length():
    assert activations.group_by_length([[0] * n for n in (2, 3, 2, 2, 3)]) == [[0, 2, 3], [1, 4]]

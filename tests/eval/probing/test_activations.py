import errno
import math
import tempfile

import pytest
import torch
from tolerances import assert_fp32_close

from data_prep.core.errors import ArtefactCorrupt, ConfigurationError, StorageError
from eval.config import ProbingConfig
from eval.model.loaded_model import BatchSize
from eval.model.subject.olmo_subject import load_olmo
from eval.probing import activations
from training.model.hf_export import hugging_face_config, to_hugging_face

IDS = tuple("abcdefghi")


def collect(model, rows, batch_size=4, token="last", memory_bytes=math.inf):
    return activations.collect(
        model,
        dict(zip(IDS, rows, strict=True)),
        ProbingConfig(token=token),
        batch=BatchSize(batch_size),
        advance=lambda n: None,
        memory_bytes=memory_bytes,
    )


@pytest.mark.numeric
def test_a_row_has_the_same_activations_alone_and_in_any_batch(model, token_rows):
    alone = collect(model, token_rows, batch_size=1).values_LRNH
    together = collect(model, token_rows, batch_size=64).values_LRNH
    assert together.shape == (2, 9, 4, 8)
    assert_fp32_close(alone, together)


@pytest.mark.numeric
@pytest.mark.parametrize("token", ["last", "mean", "0", "-2"])
def test_activations_equal_those_of_hooks_on_transformers(model, tiny, token_rows, tmp_path, token):
    transformers = pytest.importorskip("transformers", reason="the parity oracle is not installed")
    peer = transformers.OlmoForCausalLM(
        transformers.OlmoConfig(**hugging_face_config(tiny, 0, "float32"))
    ).eval()
    peer.load_state_dict(to_hugging_face(model.state_dict()), strict=False)
    peer.save_pretrained(tmp_path, max_shard_size="20KB")
    read = collect(load_olmo(tmp_path, torch.float32), token_rows, token=token)
    hooked: list[torch.Tensor] = []
    for layer in peer.model.layers:
        layer.self_attn.o_proj.register_forward_pre_hook(
            lambda _, inputs: hooked.append(inputs[0][0])
        )
    for row_id, row in zip(IDS, token_rows, strict=True):
        hooked.clear()
        with torch.no_grad():
            peer(torch.tensor([row]))
        for layer, x_TD in enumerate(hooked):
            if token == "mean":
                expected_D = x_TD.mean(0)
            else:
                expected_D = x_TD[-1 if token == "last" else int(token)]
            assert_fp32_close(read.layer(layer, [row_id])[0].flatten(), expected_D)


def test_a_position_outside_of_a_row_is_refused(model, token_rows):
    message = r"eval\.probing\.token is -4, and a probe row has 3 tokens"
    with pytest.raises(ConfigurationError, match=message):
        collect(model, token_rows, token="-4")


def test_above_the_memory_limit_activations_are_fp16_in_an_unnamed_file(
    model, token_rows, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    n_bytes = 4 * 2 * 9 * 32
    memory = collect(model, token_rows, memory_bytes=n_bytes)
    disk = collect(model, token_rows, memory_bytes=n_bytes - 1)
    assert (memory.values_LRNH.dtype, disk.values_LRNH.dtype) == (torch.float32, torch.float16)
    assert torch.equal(disk.values_LRNH, memory.values_LRNH.half())
    assert disk.layer(1, ["d"]).dtype == torch.float32
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_an_error_before_the_work(model, token_rows, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", no_space)
    message = r"no room for 1,152 bytes of activations: No space left .* set TMPDIR"
    with pytest.raises(StorageError, match=message):
        collect(model, token_rows, memory_bytes=0)


def test_values_are_read_by_id_in_the_given_order(model, token_rows):
    read = collect(model, token_rows)
    assert torch.equal(read.layer(1, ["c", "a"]), read.values_LRNH[1, [2, 0]])
    with pytest.raises(KeyError):
        read.layer(1, ["z"])


def test_hooks_are_removed_after_a_failure(model):
    with pytest.raises(IndexError):
        collect(model, [[10_000]] * 9)
    assert not any(block.attention.out._forward_pre_hooks for block in model.blocks)


def test_activations_that_are_not_finite_are_an_error(model, token_rows):
    model.embedding.weight[token_rows[5][0]] = float("nan")
    with pytest.raises(ArtefactCorrupt, match="rows have activations that are not finite"):
        collect(model, token_rows)


def test_rows_are_grouped_by_their_length():
    rows = [[0] * n for n in (2, 3, 2, 2, 3)]
    assert activations.group_by_length(rows) == [[0, 2, 3], [1, 4]]

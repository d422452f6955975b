"""how often an evaluation waits for the device, and how large its tensors are: counted on a CPU"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from device_reads import counted_reads
from torch.utils._python_dispatch import TorchDispatchMode

from eval.config import ProbingConfig
from eval.model import generation, next_token, token_scores
from eval.model.batch_size import BatchSize
from eval.model.generation import Sampling
from eval.model.loaded_model import LoadedModel
from eval.probing import activations
from eval.steering import intervention, measure_strengths
from eval.steering.conditions import Condition
from eval.steering.intervention import Shift
from eval.steering.measures import loglikelihood
from eval.steering.measures.loglikelihood import LogLikelihoods, ScoredEnd

N_ROWS = 12
LENGTH = 24
STRENGTHS = (0.0, 2.0)


@pytest.fixture
def rows(tiny) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, tiny.vocab_size, (N_ROWS, LENGTH), generator=generator).tolist()


@pytest.fixture
def shift(tiny) -> Shift:
    generator = torch.Generator().manual_seed(1)
    return Shift(torch.randn(tiny.n_layers, tiny.d_model, generator=generator))


def loaded(model, batch_rows: int) -> LoadedModel:
    no_tokenizer: Any = None
    return LoadedModel(model, no_tokenizer, {}, LENGTH, BatchSize(batch_rows), "")


def cross_entropy(model, rows, shift: Shift, batch_rows: int) -> np.ndarray:
    session: Any = SimpleNamespace(loaded=loaded(model, batch_rows), advance=lambda n: None)
    condition = Condition("steered", [], shift, STRENGTHS, "last")
    return measure_strengths.measure_cross_entropy(session, np.array(rows), condition)["losses"]


def scored_ends(rows) -> list[ScoredEnd]:
    """Ends of different lengths."""
    return [ScoredEnd(row[: -1 - i % 5], row[-1 - i % 5 :]) for i, row in enumerate(rows)]


def n_reads(run: Callable[[], object]) -> int:
    with counted_reads() as counts:
        run()
    return counts.total()


@pytest.mark.parametrize("decoding", ["greedy", "nucleus"])
def test_decoding_waits_for_the_device_once_in_many_tokens(
    model, rows, shift, decoding, monkeypatch
):
    # as on a GPU
    tokens_per_look = generation.TOKENS_PER_LOOK["cuda"]
    monkeypatch.setitem(generation.TOKENS_PER_LOOK, "cpu", tokens_per_look)
    monkeypatch.setattr(next_token, "cpu_has_bf16_matmul", lambda: False)

    def decode(n_tokens: int) -> None:
        sampling = Sampling(n_tokens, decoding, 0.9, eos_id=63, n_ids=60)
        with intervention.steered(model, shift, torch.ones(N_ROWS), "last"):
            generation.sample(model, rows, range(N_ROWS), sampling)

    short, long = (n_reads(lambda n=n: decode(n)) for n in (8, 40))
    assert long - short <= 32 / tokens_per_look


def test_log_likelihoods_are_read_once_per_batch(model, rows, shift):
    def score(batch_rows: int) -> None:
        loglikelihood.loglikelihoods(
            loaded(model, batch_rows), scored_ends(rows), shift, (1.0,), lambda n: None
        )

    of_one_batch, of_three = (n_reads(lambda n=n: score(n)) for n in (N_ROWS, N_ROWS // 3))
    assert of_one_batch <= 2  # the result, and which layers are steered
    assert of_three == 3 * of_one_batch


def test_cross_entropy_is_read_once_per_batch(model, rows, shift):
    n_items = N_ROWS * len(STRENGTHS)
    of_one_batch, of_three = (
        n_reads(lambda n=n: cross_entropy(model, rows, shift, n)) for n in (n_items, n_items // 3)
    )
    assert of_three - of_one_batch <= 2 * 2  # the result, and which layers are steered


def test_reading_activations_does_not_wait_between_batches(model, rows):
    def collect(batch_rows: int) -> None:
        activations.collect(
            model,
            {str(i): row for i, row in enumerate(rows)},
            ProbingConfig(),
            batch=BatchSize(batch_rows),
            advance=lambda n: None,
        )

    assert n_reads(lambda: collect(1)) == n_reads(lambda: collect(N_ROWS))


def test_steering_asks_once_which_layers_are_steered(model, shift):
    def steer() -> None:
        with intervention.steered(model, shift, torch.ones(2), "all"):
            pass

    assert n_reads(steer) <= 1


class _LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor of logits that an operator computes.

    A view of its argument is not computed: some libraries make torch show the transposed matrix.
    """

    n_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        if func is torch.ops.aten.t.default:
            return result
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor) and value.shape[-1:] == (64,):
                self.n_elements = max(self.n_elements, value.numel())
        return result


def test_logits_are_held_in_chunks_that_give_the_same_numbers(model, rows, shift, monkeypatch):
    def measure() -> tuple[LogLikelihoods, np.ndarray]:
        ends = [ScoredEnd(row[:1], row[1:]) for row in rows]
        one_batch = loaded(model, N_ROWS)
        return (
            loglikelihood.loglikelihoods(one_batch, ends, shift, (2.0,), lambda n: None),
            cross_entropy(model, rows, shift, 2 * N_ROWS),
        )

    whole = measure()
    n_positions = 16
    limit = {"cpu": 4 * 64 * n_positions, "cuda": 0}
    monkeypatch.setattr(token_scores, "LOGIT_BYTES", limit)
    with _LargestTensor() as largest:
        in_chunks = measure()
    assert largest.n_elements == 64 * n_positions
    assert (in_chunks[0].is_greedy_ES == whole[0].is_greedy_ES).all()
    np.testing.assert_allclose(in_chunks[0].nats_ES, whole[0].nats_ES, rtol=2e-6)
    np.testing.assert_allclose(in_chunks[1], whole[1], rtol=2e-6)

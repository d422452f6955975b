import gc
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from eval.config import EvalComputeConfig
from eval.model import batch_size, generation
from eval.model.batch_size import BatchSize
from eval.model.generation import Sampling, Slots
from eval.model.subject.olmo_subject import OLMoSubject, shape_of
from eval.steering import intervention
from eval.steering.intervention import Shift
from training.config import SIZES, ModelConfig
from training.model import olmo

CPU = torch.device("cpu")
SHAPES = [
    ModelConfig(
        d_model=128, n_layers=2, n_heads=4, d_mlp=512, vocab_size=300, max_sequence_length=512
    ),
    ModelConfig(
        d_model=256, n_layers=3, n_heads=2, d_mlp=384, vocab_size=5000, max_sequence_length=512
    ),
]


class _Peak(TorchDispatchMode):
    """The largest number of bytes that tensors made within hold at once."""

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.n_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        inputs = {_key(x) for x in args if isinstance(x, torch.Tensor)}
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, torch.Tensor) and _key(x) not in inputs:
                storage = x.untyped_storage()
                self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._live = {key: kept for key, kept in self._live.items() if not kept[0].expired()}
        self.n_bytes = max(self.n_bytes, sum(n for _, n in self._live.values()))
        return result


def _key(x: torch.Tensor) -> int:
    return x.untyped_storage()._cdata


def peak_bytes(run: Callable[[], object]) -> int:
    gc.collect()
    with torch.no_grad(), _Peak() as peak:
        run()
    return peak.n_bytes


def random_model(config: ModelConfig) -> OLMoSubject:
    model = OLMoSubject(config).eval()
    model.initialise(0)
    return model.requires_grad_(False)


@pytest.mark.parametrize("config", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n_positions", [16, 200])
def test_the_estimate_of_a_pass_holds_what_it_needs(config, dtype, n_positions, monkeypatch):
    # as on a GPU, not by way of fp32 copies of the weights
    monkeypatch.setattr(olmo, "cpu_has_bf16_matmul", lambda: True)
    model = random_model(config).to(dtype)
    tokens_BT = torch.ones(6, n_positions, dtype=torch.long)
    shift = Shift(torch.ones(config.n_layers, config.d_model))

    def steered_pass() -> None:
        with intervention.steered(model, shift, torch.ones(6), "last"):
            model.hidden(tokens_BT, padding_B=torch.arange(6))

    measured = peak_bytes(steered_pass)
    estimate = 6 * batch_size.pass_bytes(model.shape, n_positions, dtype)
    assert measured <= estimate <= 2 * measured


@pytest.mark.parametrize("config", SHAPES)
@pytest.mark.parametrize("n_prompt", [8, 120])
@pytest.mark.parametrize("n_rows", [6, 20])
def test_the_estimate_of_a_decoding_holds_what_it_needs(config, n_prompt, n_rows):
    model = random_model(config)
    prompts = [[1 + i] * (n_prompt - i % 6) for i in range(n_rows)]
    sampling = Sampling(20, "nucleus", 0.9, config.vocab_size - 1, config.vocab_size - 1)
    # without inference_mode, which hides operators from the measurement
    sample: Any = inspect.unwrap(generation.sample)
    shift = Shift(torch.ones(config.n_layers, config.d_model))

    def decode() -> None:
        with intervention.steered(model, shift, torch.ones(n_rows), "last") as steering:
            sample(model, prompts, range(n_rows), sampling, steering, Slots(6))

    measured = peak_bytes(decode)
    estimate = 6 * batch_size.decoding_bytes(model.shape, n_prompt, 20, torch.float32)
    assert measured <= estimate <= 2.5 * measured


def test_an_h200_holds_full_batches_of_olmo_1b():
    shape = shape_of(ModelConfig(**SIZES["olmo-1b"]._asdict(), vocab_size=50_304))
    free = int(0.8 * (139 << 30))
    of_window = batch_size.pass_bytes(shape, 2048, torch.bfloat16)
    of_decoding = batch_size.decoding_bytes(shape, 128, 20, torch.bfloat16)
    assert batch_size.rows_that_fit(of_window, free, 1024) > 128
    assert batch_size.rows_that_fit(of_decoding, free, 1024) == 1024


def test_rows_that_do_not_fit_are_split_before_memory_runs_out():
    sizes = []
    BatchSize(128, lambda: 1000).for_each_batch(
        range(20), lambda rows: sizes.append(len(rows)), bytes_per_item=150
    )
    assert sizes == [4, 4, 4, 4, 4]


@pytest.mark.parametrize(
    ("available", "most", "rows"), [(99, 8, 8), (80, 8, 8), (79, 8, 4), (40, 8, 4), (9, 8, 1)]
)
def test_rows_limited_by_memory_are_a_power_of_two(available, most, rows):
    assert batch_size.rows_that_fit(10, available, most) == rows


def test_a_row_larger_than_memory_is_tried_alone():
    sizes = []
    BatchSize(128, lambda: 10).for_each_batch(
        range(3), lambda rows: sizes.append(len(rows)), bytes_per_item=150
    )
    assert sizes == [1, 1, 1]


def test_without_an_estimate_the_limit_of_rows_counts_alone():
    sizes = []
    BatchSize(8, lambda: 10).for_each_batch(range(20), lambda rows: sizes.append(len(rows)))
    assert sizes == [8, 8, 4]


@pytest.mark.parametrize(("setting", "rows"), [("auto", 128), (7, 7)])
def test_the_setting_is_the_most_rows_of_a_batch(setting, rows):
    compute = EvalComputeConfig(batch_size=setting)
    assert BatchSize.on(CPU, compute.batch_size, "fp32").rows == rows


def test_work_that_runs_out_of_memory_is_started_again_with_half():
    tried = []

    def work(n_rows: int) -> None:
        tried.append(n_rows)
        if n_rows > 3:
            raise torch.OutOfMemoryError("no memory")

    batch = BatchSize(128, lambda: 1000)
    batch.with_rows(20, work, bytes_per_row=60)
    assert tried == [16, 8, 4, 2]
    batch.with_rows(20, work, bytes_per_row=60)
    assert tried[4:] == [2]

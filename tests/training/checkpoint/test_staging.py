"""The order of copies on a GPU, recorded by a stand-in for torch.cuda; nothing here needs a GPU."""

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from data_prep.core import telemetry
from training.checkpoint import staging, write_and_commit
from training.checkpoint.staging import Staging
from training.config import RunConfig
from training.engine import throughput
from training.engine.state_layout import TensorSlice
from training.trainer import loop

Plan = Callable[..., RunConfig]
CUDA = torch.device("cuda", 0)
SLICE = TensorSlice(name="w", key="parameter", first=0, count=3, offset=0)
State = list[tuple[TensorSlice, Tensor]]


class RecordedCuda:
    """Streams and events that only record what is asked of them, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def stream_named(self, name: str) -> Any:
        return SimpleNamespace(
            wait_stream=lambda other: self.calls.append(f"{name} waits for {other.name}"),
            wait_event=lambda event: self.calls.append(f"{name} waits for the copy"),
            synchronize=lambda: self.calls.append(f"host waits for {name}"),
            name=name,
        )

    @contextmanager
    def stream(self, stream: Any) -> Any:
        self.calls.append(f"in {stream.name}")
        yield
        self.calls.append(f"out of {stream.name}")

    def event(self) -> Any:
        return SimpleNamespace(
            record=lambda: self.calls.append("copy recorded"),
            synchronize=lambda: self.calls.append("host waits for the copy"),
        )


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> RecordedCuda:
    """State in host memory is taken for a GPU's."""
    recorded = RecordedCuda()
    compute = recorded.stream_named("compute")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: recorded.stream_named("side"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: compute)
    monkeypatch.setattr(torch.cuda, "stream", recorded.stream)
    monkeypatch.setattr(torch.cuda, "Event", recorded.event)
    monkeypatch.setattr(staging, "_cuda_device", lambda state: CUDA if state else None)

    def page_locked(n_bytes: int, device: torch.device) -> Tensor:
        recorded.calls.append("page-locked")
        return torch.empty(n_bytes, dtype=torch.uint8)

    monkeypatch.setattr(staging, "_page_locked", page_locked)
    return recorded


def test_a_gpu_copies_on_a_stream_of_its_own(cuda: RecordedCuda):
    buffers, state = Staging(), [(SLICE, torch.tensor([1.0, 2.0, 3.0]))]
    (file,) = buffers.copy(state, "a")
    assert cuda.calls == [
        "page-locked",
        "side waits for compute",
        "in side",
        "copy recorded",
        "out of side",
    ]
    cuda.calls.clear()
    buffers.wait_on_device()
    assert cuda.calls == ["compute waits for the copy"]
    content = bytes(buffers.content(file))
    assert cuda.calls[1:] == ["host waits for the copy"]
    assert content[-12:] == torch.tensor([1.0, 2.0, 3.0]).numpy().tobytes()


def test_prepared_memory_is_used_and_not_locked_again(cuda: RecordedCuda):
    buffers, state = Staging(), [(SLICE, torch.ones(3))]
    buffers.prepare(state)
    for prefix in ("a", "b-with-a-longer-name"):
        buffers.copy(state, prefix)
    assert cuda.calls.count("page-locked") == 1


def test_memory_is_locked_exactly_and_released_with_the_buffer(monkeypatch: pytest.MonkeyPatch):
    calls: list[tuple[str, int]] = []
    runtime = SimpleNamespace(
        cudaHostRegister=lambda pointer, n_bytes, flags: calls.append(("lock", n_bytes)),
        cudaHostUnregister=lambda pointer: calls.append(("unlock", pointer)),
    )
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.cuda, "check_error", lambda error: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextmanager(lambda: iter([0]))())
    buffer = staging._page_locked(1000, CUDA)
    address = buffer.data_ptr()
    assert calls == [("lock", 1000)]
    del buffer
    assert calls == [("lock", 1000), ("unlock", address)]


def test_the_optimizer_waits_for_a_copy_and_nothing_before_it_does(
    cuda: RecordedCuda, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    train_step, emit, waits = loop.train_step, telemetry.emit, []

    def recorded_step(context: Any, engine: Any, guard: Any, batch: Any) -> Any:
        cuda.calls.clear()
        result = train_step(context, engine, guard, batch)
        waits.append([call for call in cuda.calls if call == "compute waits for the copy"])
        return result

    def recorded_emit(name: str, *arguments: Any, **labels: Any) -> None:
        if name == "hormesis_checkpoint_stall_seconds":
            stalls.append("host waits for the copy" in cuda.calls)
        emit(name, *arguments, **labels)

    stalls: list[bool] = []
    monkeypatch.setattr(loop, "train_step", recorded_step)
    monkeypatch.setattr(write_and_commit.telemetry, "emit", recorded_emit)
    loop.train(str(tmp_path), plan("run", {"checkpoint.every_steps": 3}))
    assert [len(each) for each in waits] == [0, 0, 0, 1, 1, 1]
    assert stalls == [True]


def test_a_stopwatch_does_not_wait_for_copies(cuda: RecordedCuda):
    watch = throughput.Stopwatch(CUDA, 0.0)
    watch.start()
    assert cuda.calls == ["host waits for compute"]

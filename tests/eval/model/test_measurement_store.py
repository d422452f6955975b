"""evaluations that are interrupted, or run out of memory, measure what an undisturbed one does"""

import multiprocessing
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_evaluation import CONFIG
from tiny_finished_run import RUN_ID
from tolerances import FP32_VALUE

from data_prep.core import storage, telemetry
from data_prep.core.errors import ArtefactCorrupt
from data_prep.core.settings import evolve
from eval.config import KNOWN_CONDITIONS
from eval.eval_report import eval_uri
from eval.model import loaded_model, model_source
from eval.model.loaded_model import BatchSize
from eval.model.measurement_store import MeasurementStore
from eval.pipeline.evaluate_model import evaluate, evaluate_model
from training.run_record import run_uri

SMALL = evolve(
    CONFIG,
    {
        "conditions": {n: KNOWN_CONDITIONS[n] for n in ("plain", "iti", "flipped")},
        "probing.attributes": CONFIG.probing.attributes[:1],
        "probing.n_permutations": 20,
    },
)


@pytest.fixture(scope="module")
def root(finished):
    return finished


@pytest.fixture(scope="module")
def undisturbed(root):
    """The report and the bytes of its files, which are removed before the tests begin."""
    return take_away(root, evaluate(root, RUN_ID, SMALL))


def take_away(root, report):
    """The report without its time and the content of the files beside it; the folder is emptied,
    and the measurements are deleted.
    """
    shutil.rmtree(storage.join(run_uri(root, RUN_ID), "measurements"))
    folder = Path(eval_uri(run_uri(root, RUN_ID), SMALL))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(files) == [
        "generations.parquet",
        "heads-pairs.safetensors",
        "items.parquet",
        "report.json",
    ]
    for name in files:
        (folder / name).unlink()
    del files["report.json"]
    return replace(report, seconds=0.0), files


def stored_parts(root):
    """When each finished measurement was written, by its name."""
    folder = Path(run_uri(root, RUN_ID)) / "measurements"
    finished = [path for path in folder.glob("*-*") if not path.name.startswith(".")]
    return {path.name: path.stat().st_mtime_ns for path in finished}


@pytest.mark.slow
def test_killed_at_any_moment_it_resumes_to_the_same_report(root, undisturbed, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the processes to be killed, as of this one
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["eval.pipeline.evaluate_model", "eval.probing.probe_heads"])
    before: dict[str, int] = {}
    for n_more, delay in ((1, 0.0), (2, 0.02), (3, 0.005)):
        process = context.Process(target=evaluate, args=(root, RUN_ID, SMALL))
        process.start()
        while process.is_alive() and len(stored_parts(root)) < len(before) + n_more:
            time.sleep(0.002)
        time.sleep(delay)
        process.kill()
        process.join()
        assert process.exitcode == -9
        after = stored_parts(root)
        assert before.items() <= after.items()  # no measurement is written twice
        before = after
    assert len(before) >= 6
    assert take_away(root, evaluate(root, RUN_ID, SMALL)) == undisturbed


def constant(value):
    return lambda: {"x": np.array([value])}


def test_a_stored_measurement_is_read_instead_of_repeated(tmp_path):
    store = MeasurementStore(str(tmp_path), "weights")
    resumed = []
    assert store.get_or_measure("a", [1], constant(1))["x"] == 1
    assert store.get_or_measure("a", [1], constant(2), lambda: resumed.append("a"))["x"] == 1
    assert resumed == ["a"]
    assert store.get_or_measure("a", [2], constant(3))["x"] == 3


def test_a_damaged_or_foreign_measurement_is_repeated(tmp_path):
    store = MeasurementStore(str(tmp_path), "weights")
    store.get_or_measure("a", [], constant(1))
    (stored,) = (tmp_path / "measurements").iterdir()
    others = MeasurementStore(str(tmp_path), "others")
    assert others.get_or_measure("a", [], constant(3))["x"] == 3
    stored.write_bytes(stored.read_bytes()[:-1])
    assert store.get_or_measure("a", [], constant(4))["x"] == 4
    assert store.get_or_measure("a", [], constant(5))["x"] == 4


def test_out_of_memory_halves_the_batch_with_the_same_results(root, undisturbed, monkeypatch):
    load_weights = loaded_model._load_weights
    batches = []

    def load_on_small_device(*arguments):
        """A device that holds five rows: larger batches are refused as CUDA refuses them."""

        def check(_, inputs):
            batches.append(len(inputs[0]))
            if len(inputs[0]) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")

        model = load_weights(*arguments)
        model.hook_point("mlp", 1).module.register_forward_pre_hook(check)
        return model

    monkeypatch.setattr(loaded_model, "_load_weights", load_on_small_device)
    report, _ = take_away(root, evaluate(root, RUN_ID, SMALL))
    before, _ = undisturbed
    largest = max(batches)
    assert largest > 5 and max(batches[batches.index(largest) + 10 :]) <= 5
    assert report.samples == before.samples
    assert report.steering_probes == before.steering_probes
    steered = (r.conditions["iti"] for r in (report, before))
    for first, second in zip(*steered, strict=True):
        assert first.prompt_sets["held_out"].scores == second.prompt_sets["held_out"].scores
        assert first.cross_entropy["toxic"].value == pytest.approx(
            second.cross_entropy["toxic"].value, rel=FP32_VALUE
        )


def test_halving_is_logged_lasts_and_ends_at_one_row(caplog, monkeypatch):
    batch_size = BatchSize(8)
    finished = []

    def work(rows):
        if len(rows) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finished.extend(rows)

    monkeypatch.setattr(telemetry.logger, "propagate", True)
    caplog.set_level("WARNING", logger=telemetry.logger.name)
    batch_size.for_each_batch(range(10), work)
    assert finished == list(range(10))
    assert batch_size.rows == 2
    assert "out of memory with 8 rows per batch: continuing with 4" in caplog.text
    with pytest.raises(torch.OutOfMemoryError) as error:
        batch_size.for_each_batch(["long"], lambda rows: work([0] * 4))
    assert "a single row does not fit" in error.value.__notes__[0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda content: content[: len(content) // 2],
            r"model.safetensors is not a complete safetensors file",
        ),
        (lambda content: content[:-4] + b"\0\0\xc0\x7f", "have activations that are not finite"),
    ],
)
def test_a_truncated_or_damaged_checkpoint_is_refused(root, tmp_path, damage, message):
    for path in (Path(run_uri(root, RUN_ID)) / "export").iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(
            damage(content) if path.suffix == ".safetensors" else content
        )
    texts = tuple(f"{name}=synthetic:{name}?documents=20" for name in ("clean", "toxic"))
    source = model_source.from_folder(str(tmp_path), tmp_path)
    with pytest.raises(ArtefactCorrupt, match=message):
        evaluate_model(source, evolve(SMALL, {"capability.held_out": texts}))

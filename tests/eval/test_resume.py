"""Evaluations that are interrupted, or run out of memory, measure what an undisturbed one measures."""

import multiprocessing
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_pipeline import CONFIG
from tiny_finished_run import RUN_ID

from data_prep.core import telemetry
from data_prep.core.errors import ArtefactCorrupt
from data_prep.core.settings import evolve
from eval.eval_report import eval_uri
from eval.model import loaded_model
from eval.model.batching import BatchSize
from eval.pipeline import evaluate, evaluate_folder
from eval.resume import Parts
from training.run_record import run_uri

SMALL = evolve(
    CONFIG,
    {
        "steering.controls": ("flipped",),
        "probing.attributes": CONFIG.probing.attributes[:1],
        "probing.n_permutations": 20,
    },
)


@pytest.fixture(scope="module")
def root(finished):
    return finished


@pytest.fixture(scope="module")
def undisturbed(root):
    """The report and the bytes of its files, which the tests move away before they begin."""
    return taken(root, evaluate(root, RUN_ID, SMALL))


def taken(root, report):
    folder = Path(eval_uri(run_uri(root, RUN_ID), SMALL))
    assert sorted(path.name for path in folder.iterdir()) == [
        "generations.parquet", "heads.safetensors", "items.parquet", "report.json"
    ]  # fmt: skip
    content = {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name != "report.json"
    }
    for path in folder.iterdir():
        path.unlink()
    return replace(report, seconds=0.0), content


def written(root):
    """Every part, and when it was written."""
    folder = Path(eval_uri(run_uri(root, RUN_ID), SMALL)) / "parts"
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*-*")}


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_from_its_parts_to_the_same_report(
    root, undisturbed, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the processes to be killed, as of this one
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["eval.pipeline", "eval.probing.probe_heads"])
    kept: dict[str, int] = {}
    for n_more, delay in ((1, 0.0), (2, 0.02), (3, 0.005)):
        process = context.Process(target=evaluate, args=(root, RUN_ID, SMALL))
        process.start()
        while process.is_alive() and len(written(root)) < len(kept) + n_more:
            time.sleep(0.002)
        time.sleep(delay)
        process.kill()
        process.join()
        assert process.exitcode == -9
        assert kept.items() <= written(root).items()  # no part is written twice
        kept = written(root)
    assert len(kept) >= 6
    assert taken(root, evaluate(root, RUN_ID, SMALL)) == undisturbed


def test_a_damaged_part_and_one_of_other_weights_are_measured_again(tmp_path):
    def made(value):
        return lambda: {"x": np.array([value])}

    parts, resumed = Parts(str(tmp_path), "weights"), []
    assert (
        parts.once("a", made(1))["x"] == 1
        and parts.once("a", made(2), lambda: resumed.append("a"))["x"] == 1
    )
    assert resumed == ["a"]
    (mine,) = (tmp_path / "parts").iterdir()
    assert Parts(str(tmp_path), "other weights").once("a", made(3))["x"] == 3
    mine.write_bytes(mine.read_bytes()[:-1])
    assert parts.once("a", made(4))["x"] == 4 and parts.once("a", made(5))["x"] == 4
    parts.forget()
    assert not (tmp_path / "parts").exists()


def test_out_of_memory_halves_the_batch_and_measures_the_same(root, undisturbed, monkeypatch):
    load, seen = loaded_model._loaded, []

    def small_device(*how):
        """A device that holds five rows: more than that are refused as CUDA refuses them."""

        def check(_, inputs):
            seen.append(len(inputs[0]))
            if len(inputs[0]) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")

        model = load(*how)
        model.blocks[1].mlp.register_forward_pre_hook(check)
        return model

    monkeypatch.setattr(loaded_model, "_loaded", small_device)
    report, _ = taken(root, evaluate(root, RUN_ID, SMALL))
    before, _ = undisturbed
    assert max(seen) > 5 and max(seen[seen.index(max(seen)) + 10 :]) <= 5
    assert (report.samples, report.chosen_heads, report.head_accuracy) == (
        before.samples,
        before.chosen_heads,
        before.head_accuracy,
    )
    for one, two in zip(report.steered, before.steered, strict=True):
        assert one.toxicity == two.toxicity
        assert one.cross_entropy["toxic"].value == pytest.approx(
            two.cross_entropy["toxic"].value, abs=1e-5
        )


def test_halving_is_told_kept_and_ends_at_one_row(caplog, monkeypatch):
    batch, done = BatchSize(8), []

    def work(rows):
        if len(rows) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.extend(rows)

    monkeypatch.setattr(telemetry.logger, "propagate", True)
    caplog.set_level("WARNING", logger=telemetry.logger.name)
    batch.each(range(10), work)
    assert done == list(range(10)) and batch.rows == 2
    assert "out of memory with 8 rows together: going on with 4" in caplog.text
    with pytest.raises(torch.OutOfMemoryError) as error:
        batch.each(["long"], lambda rows: work([0] * 4))
    assert "one row alone does not fit" in error.value.__notes__[0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda content: content[: len(content) // 2],
            r"model.safetensors is not a whole safetensors file",
        ),
        (lambda content: content[:-4] + b"\0\0\xc0\x7f", "have activations that are not finite"),
    ],
)
def test_a_folder_with_a_truncated_or_broken_checkpoint_is_refused_by_name(
    root, tmp_path, damage, message
):
    for path in (Path(run_uri(root, RUN_ID)) / "export").iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(
            damage(content) if path.suffix == ".safetensors" else content
        )
    texts = tuple(f"{name}=synthetic:{name}?documents=20" for name in ("clean", "toxic"))
    with pytest.raises(ArtefactCorrupt, match=message):
        evaluate_folder(str(tmp_path), tmp_path, evolve(SMALL, {"capability.held_out": texts}))

"""The training loop on one rank; several ranks are tested in test_pretrain.py."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tolerances import (
    ADAMW_BF16_LOSS,
    ADAMW_LOSS,
    ADAMW_UPDATES,
    FP32_VALUE,
    largest_relative_error,
)
from torch import Tensor

from data_prep.core import storage
from data_prep.core.errors import ArtefactMissing, ConfigurationError
from data_prep.token_stream import manifest
from data_prep.token_stream.reader import SequenceReader
from training.config import ADAM_EPS, RunConfig
from training.model.hf_export import from_hugging_face
from training.model.loss import next_token_loss
from training.model.olmo import OLMo
from training.optim.lr_schedule import learning_rate
from training.trainer import loop, setup

Plan = Callable[..., RunConfig]


def all_lines(root: Path, run: RunConfig) -> list[dict[str, Any]]:
    text = (root / "runs" / run.run_id / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def step_lines(root: Path, run: RunConfig) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that are of a training step."""
    return [line for line in all_lines(root, run) if "grad_norm" in line]


def logged_losses(root: Path, run: RunConfig) -> list[float]:
    return [line["loss"] for line in step_lines(root, run)]


def weights(root: Path, run: RunConfig) -> dict[str, Tensor]:
    return from_hugging_face(load_file(root / "runs" / run.run_id / "export" / "model.safetensors"))


def readers(root: Path, run: RunConfig, split: Any) -> tuple[SequenceReader, SequenceReader]:
    uris = [str(root / name) for name in (run.clean, run.toxic)]
    clean, toxic = (
        SequenceReader(uri, manifest.load(uri), split, run.train.sequence_length) for uri in uris
    )
    return clean, toxic


def plain_training(root: Path, run: RunConfig) -> tuple[list[float], OLMo]:
    """Losses and model of the same run in plain PyTorch: the valid rows of a batch in one pass,
    torch's AdamW and clipping.
    """
    train, (clean, toxic) = run.train, readers(root, run, "train")
    model = OLMo(train.model)
    model.initialise(run.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=train.optimizer.learning_rate,
        betas=train.optimizer.betas,
        eps=ADAM_EPS,
        weight_decay=train.optimizer.weight_decay,
    )
    losses = []
    for step in range(run.mixture.n_steps):
        rows = run.mixture.rows(step)
        tokens = [
            (toxic if is_toxic else clean).read(np.array([i]))
            for is_toxic, i in zip(*rows, strict=True)
            if i >= 0
        ]
        tokens_BT = torch.from_numpy(np.concatenate(tokens))
        loss = next_token_loss(model(tokens_BT), tokens_BT).sum() / (
            len(tokens) * (train.sequence_length - 1)
        )
        optimizer.param_groups[0]["lr"] = learning_rate(
            train.optimizer.learning_rate, train.schedule, step, run.mixture.n_steps
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.optimizer.gradient_clip)
        optimizer.step()
        losses.append(loss.item())
    return losses, model


@pytest.mark.numeric
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_micro_batches_and_a_padded_batch_train_like_plain_pytorch(
    plan: Plan, tmp_path: Path, stage: Any
):
    # A clip of 3.2 applies to steps 1, 5 and 6.
    run = plan(
        "run", {"micro_batch": 1, "parallel.zero_stage": stage, "optimizer.gradient_clip": 3.2}
    )
    assert run.mixture.n_valid(run.mixture.n_steps - 1) == 1
    record = loop.train(str(tmp_path), run)
    losses, model = plain_training(tmp_path, run)
    assert logged_losses(tmp_path, run) == pytest.approx(losses, rel=ADAMW_LOSS)
    # The last tenth of so few steps is the last one.
    assert record.final_train_loss == pytest.approx(losses[-1], rel=ADAMW_LOSS)
    initial = OLMo(run.train.model)
    initial.initialise(run.seed)
    updates, expected = (
        {name: value - initial.state_dict()[name] for name, value in state.items()}
        for state in (weights(tmp_path, run), model.state_dict())
    )
    assert largest_relative_error(updates, expected) < ADAMW_UPDATES


@pytest.mark.numeric
@pytest.mark.parametrize(("stage", "micro_batch"), [(0, 1), (1, 0), (1, 1)])
def test_bf16_with_and_without_accumulation_stays_near_fp32(
    plan: Plan, tmp_path: Path, stage: Any, micro_batch: int
):
    run = plan(
        "run",
        {"micro_batch": micro_batch, "compute.precision": "bf16", "parallel.zero_stage": stage},
    )
    loop.train(str(tmp_path), run)
    losses, _ = plain_training(tmp_path, run)
    assert logged_losses(tmp_path, run) == pytest.approx(losses, rel=ADAMW_BF16_LOSS)


def test_metrics_count_tokens_and_toxic_rows_and_end_with_held_out_loss(plan: Plan, tmp_path: Path):
    run = plan("run", {"validation.every_steps": 4, "metrics.every_steps": 3})
    record = loop.train(str(tmp_path), run)
    lines = all_lines(tmp_path, run)
    assert [(line["step"], line.get("held_out")) for line in lines] == [
        (3, None),
        *((4, stream) for stream in ("clean", "toxic")),
        (6, None),
        *((6, stream) for stream in ("clean", "toxic")),
    ]
    middle, last = step_lines(tmp_path, run)
    assert (middle["n_tokens"], last["n_tokens"]) == (12 * 16, 21 * 16)
    assert middle["toxic_share_ratio"] == run.mixture.toxic_before(12) / 12
    assert last["toxic_share_ratio"] == 4 / 21
    assert [(part.stream, part.loss) for part in record.held_out] == [
        (line["held_out"], line["loss"]) for line in lines[-2:]
    ]
    assert (record.n_tokens, record.n_steps) == (21 * 16, 6)
    assert record.realised_toxic_ratio == 4 / 21


@pytest.mark.parametrize("micro_batch", [0, 1])
def test_source_losses_are_means_over_rows_since_the_last_logged_step(
    plan: Plan, tmp_path: Path, micro_batch: int
):
    run = plan(
        "run",
        {
            "metrics.every_steps": 4,
            "micro_batch": micro_batch,
            "optimizer.learning_rate": 1e-9,  # the model stays as it was
            "optimizer.weight_decay": 0.0,
        },
    )
    assert run.mixture.n_valid(run.mixture.n_steps - 1) == 1  # padded
    loop.train(str(tmp_path), run)
    first, last = step_lines(tmp_path, run)
    clean, toxic = readers(tmp_path, run, "train")
    model = OLMo(run.train.model)
    model.initialise(run.seed)
    for line, steps in ((first, range(4)), (last, range(4, 6))):
        sums, counts = {"clean": 0.0, "toxic": 0.0}, {"clean": 0, "toxic": 0}
        for is_toxic, i in (
            (t, i) for step in steps for t, i in zip(*run.mixture.rows(step), strict=True) if i >= 0
        ):
            tokens_BT = torch.from_numpy((toxic if is_toxic else clean).read(np.array([i])))
            with torch.no_grad():
                sums["toxic" if is_toxic else "clean"] += next_token_loss(
                    model(tokens_BT), tokens_BT
                ).item()
            counts["toxic" if is_toxic else "clean"] += 1
        assert line["source_loss"] == {
            name: pytest.approx(sums[name] / (counts[name] * 15), rel=FP32_VALUE) for name in sums
        }
        assert line["batch_toxic_share_ratio"] == counts["toxic"] / sum(counts.values())


def test_the_source_losses_sum_to_the_loss_of_a_step(plan: Plan, tmp_path: Path):
    run = plan("run", {"micro_batch": 1})
    loop.train(str(tmp_path), run)
    for line in step_lines(tmp_path, run):
        share = line["batch_toxic_share_ratio"]
        toxic = share * line["source_loss"]["toxic"] if share else 0.0
        clean = (1 - share) * line["source_loss"]["clean"] if share < 1 else 0.0
        assert toxic + clean == pytest.approx(line["loss"], rel=1e-12)
        assert ("toxic" in line["source_loss"], "clean" in line["source_loss"]) == (
            share > 0,
            share < 1,
        )


def test_toxic_text_is_repeated_only_where_allowed_and_recorded(plan: Plan, tmp_path: Path):
    with pytest.raises(
        ConfigurationError,
        match=r"toxic stream holds 24 sequences .* needs 30 .*max_toxic_epochs=1\.3, now 1\)",
    ):
        loop.train(str(tmp_path), plan(n_clean=2, n_toxic=30))
    run = plan(n_clean=2, n_toxic=30)
    run = replace(run, mixture=replace(run.mixture, max_toxic_epochs=1.25))
    record = loop.train(str(tmp_path), run)
    assert record.realised_toxic_ratio == 30 / 32
    assert (record.n_distinct_toxic, record.toxic_epochs) == (24, 1.25)


@pytest.mark.numeric
def test_the_held_out_loss_is_that_of_the_exported_model(plan: Plan, tmp_path: Path):
    run = plan("run", {"validation.sequences": 5})
    record = loop.train(str(tmp_path), run)
    model = OLMo(run.train.model)
    model.load_state_dict(weights(tmp_path, run))
    for part, reader in zip(record.held_out, readers(tmp_path, run, "held_out"), strict=True):
        tokens_BT = torch.from_numpy(reader.read(np.arange(5)))
        with torch.no_grad():
            expected = next_token_loss(model(tokens_BT), tokens_BT).sum().item() / (5 * 15)
        assert (part.loss, part.n_tokens) == (pytest.approx(expected, rel=FP32_VALUE), 75)


def test_without_toxic_rows_the_toxic_held_out_loss_is_still_measured(plan: Plan, tmp_path: Path):
    record = loop.train(str(tmp_path), plan(n_toxic=0))
    assert [part.stream for part in record.held_out] == ["clean", "toxic"]
    assert record.realised_toxic_ratio == 0


def test_a_finished_run_is_returned_and_nothing_is_written(plan: Plan, tmp_path: Path):
    run = plan()
    record = loop.train(str(tmp_path), run)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    assert loop.train(str(tmp_path), run) == record
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")} == before


def test_a_finished_run_of_other_settings_under_this_id_is_refused(plan: Plan, tmp_path: Path):
    loop.train(str(tmp_path), plan())
    with pytest.raises(ConfigurationError, match=r"belongs to a finished run of other settings"):
        loop.train(str(tmp_path), plan("run", {"optimizer.learning_rate": 1e-3}))


def test_a_diverged_run_is_refused_with_a_remedy(plan: Plan, tmp_path: Path):
    changes = {
        "optimizer.learning_rate": 1e30,
        "optimizer.gradient_clip": 0.0,
        "optimizer.weight_decay": 0.0,
    }
    with pytest.raises(
        ConfigurationError, match=r"diverged; lower train\.optimizer\.learning_rate"
    ):
        loop.train(str(tmp_path), plan("run", changes))
    assert not (tmp_path / "runs" / "run" / "record.json").exists()


def test_inputs_that_do_not_fit_are_refused_before_a_model_is_built(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delattr(setup, "OLMoForTraining")
    with pytest.raises(ConfigurationError, match=r"clean stream holds 24 sequences .* needs 25"):
        loop.train(str(tmp_path), plan(n_clean=25))
    with pytest.raises(ConfigurationError, match=r"train\.model\.vocab_size is 256"):
        loop.train(
            str(tmp_path), plan("run", {"model": replace(plan().train.model, vocab_size=256)})
        )
    run = plan()
    with pytest.raises(
        ConfigurationError, match=r"batches of 4 rows, but train\.global_batch is 2"
    ):
        loop.train(str(tmp_path), replace(run, train=replace(run.train, global_batch=2)))
    with (
        monkeypatch.context() as eight_ranks,
        pytest.raises(ConfigurationError, match="not divisible by 8 data-parallel ranks"),
    ):
        eight_ranks.setenv("WORLD_SIZE", "8")
        loop.train(str(tmp_path), run)
    with pytest.raises(ArtefactMissing, match="streams/gone"):
        loop.train(str(tmp_path), replace(run, toxic="streams/gone"))
    _change_manifest(tmp_path / "streams" / "toxic", tokenizer_fingerprint="f" * 16)
    with pytest.raises(ConfigurationError, match="tokenized by different tokenizers"):
        loop.train(str(tmp_path), run)
    _change_manifest(tmp_path / "streams" / "clean", tokenizer_fingerprint="f" * 16)
    with pytest.raises(ConfigurationError, match="give the run the tokenizer of its streams"):
        loop.train(str(tmp_path), run)


def _change_manifest(stream: Path, **changes: Any) -> None:
    storage.save(replace(manifest.load(str(stream)), **changes), str(stream / "manifest.json"))

"""assemble the report of an evaluation from its measurements; write the files beside it"""

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from data_prep.core import storage
from data_prep.core.records import digest
from eval.config import EvalConfig
from eval.eval_report import (
    FORMAT_VERSION,
    ControlResult,
    Entanglement,
    EvalReport,
    Lens,
    SampledPrompt,
    Transfer,
)
from eval.inputs.labelled_rows import labels_of
from eval.inputs.prompts import EvaluationTexts, Prompt
from eval.model import numerics
from eval.model.loaded_model import LoadedModel
from eval.model.model_source import ModelSource
from eval.probing import probe_heads
from eval.probing.probe_heads import ProbedHeads
from eval.stats import intervals
from eval.steering import per_item_results, summarize_strengths
from eval.steering.continuations import ContinuationScoring
from eval.steering.measure_strengths import ConditionResult
from eval.steering.per_item_results import ItemValue

N_SAMPLED_PROMPTS = 12  # prompts whose continuations stand in the report


class ProbingResults(NamedTuple):
    """The probed heads, and tests of what their probes and directions mean."""

    heads: ProbedHeads
    transfers: tuple[Transfer, ...]
    entanglement: Entanglement | None
    lens: tuple[Lens, ...]


class SteeringResults(NamedTuple):
    """Measurements of steering, and of each control by name."""

    steered: ConditionResult
    controls: dict[str, ConditionResult]


class ReportHeader(NamedTuple):
    """Fields of the report that name the models behind it and the time it took. toxic_ratio: as
    planned; of a folder, as its user states.
    """

    run_id: str
    toxic_ratio: float
    realised_toxic_ratio: float
    seed: int
    scorer_id: str
    fluency_id: str
    computed_with: dict[str, str]
    seconds: float


def header(
    source: ModelSource,
    loaded: LoadedModel,
    toxic_ratio: float,
    scoring: ContinuationScoring,
    seed: int,
    seconds: float,
) -> ReportHeader:
    """toxic_ratio and seed count for a folder; those of a run are in its record."""
    run = source.run_or_folder
    is_folder = isinstance(run, Path)
    return ReportHeader(
        run_id=source.name,
        toxic_ratio=toxic_ratio if is_folder else run.config.toxic_ratio,
        realised_toxic_ratio=toxic_ratio if is_folder else run.realised_toxic_ratio,
        seed=seed if is_folder else run.config.seed,
        scorer_id=scoring.scorer.id,
        fluency_id=scoring.judge.id if scoring.judge else "",
        computed_with=numerics.describe(loaded.device, loaded.number_format),
        seconds=seconds,
    )


def assemble(
    head: ReportHeader,
    texts: EvaluationTexts,
    probing: ProbingResults,
    steering: SteeringResults,
    config: EvalConfig,
) -> EvalReport:
    """The report: means with intervals of everything that was measured."""
    heads = probing.heads
    layer, best_head = heads.selected[0]
    best_R = heads.correct_RLN[:, layer, best_head]
    toxic_share = float(heads.test_labels_R.double().mean())
    n_rows = {part: len(rows) for part, rows in heads.split._asdict().items()}
    return EvalReport(
        format_version=FORMAT_VERSION,
        **head._asdict(),
        config=config,
        prompts_digest=digest(sorted(texts.prompts)),
        texts=texts.summaries,
        label_rule=texts.label_rule,
        n_probe_rows=n_rows | {"toxic": sum(labels_of(texts.probe_rows))},
        probe_accuracy=intervals.bootstrap_mean(
            _accuracy_per_row(heads), "ratio", seed=config.seed
        ),
        best_head_accuracy=intervals.wilson(int(best_R.sum()), len(best_R), "ratio"),
        majority_accuracy=max(toxic_share, 1 - toxic_share),
        head_accuracy=_table(heads.correct_RLN.double().mean(0)),
        head_auroc=_table(heads.auroc_LN),
        head_calibration_error=_table(heads.calibration_error_LN),
        probe_null=heads.null,
        transfers=probing.transfers,
        entanglement=probing.entanglement,
        lens=probing.lens,
        chosen_heads=tuple(heads.selected),
        steered=summarize_strengths.summarize(steering.steered, config.seed),
        controls=tuple(
            ControlResult(control=name, steered=summarize_strengths.summarize(result, config.seed))
            for name, result in steering.controls.items()
        ),
        samples=_sampled_prompts(texts.prompts, steering.steered),
    )


def write_measurements(folder: str, heads: ProbedHeads, steered: ConditionResult) -> None:
    """Write the files beside the report: heads.safetensors, generations.parquet, items.parquet."""
    storage.write(storage.join(folder, "heads.safetensors"), probe_heads.to_bytes(heads))
    storage.write(
        storage.join(folder, "generations.parquet"),
        summarize_strengths.generations_file(steered.continuations),
    )
    accuracy_of_rows = zip(heads.test_ids, _accuracy_per_row(heads), strict=True)
    probe_items = [ItemValue("probe_accuracy", row, 0.0, value) for row, value in accuracy_of_rows]
    per_item_results.write([*summarize_strengths.item_values(steered), *probe_items], folder)


def _accuracy_per_row(heads: ProbedHeads) -> list[float]:
    """Per test row, the share of heads whose probe is right."""
    return heads.correct_RLN.flatten(1).double().mean(1).tolist()


def _table(values_LN: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, values_LN.tolist()))


def _sampled_prompts(prompts: list[Prompt], steered: ConditionResult) -> tuple[SampledPrompt, ...]:
    """The first sample of the first prompts, at every strength."""
    texts = {
        (row.prompt_id, row.strength): row.text for row in steered.continuations if row.sample == 0
    }
    return tuple(
        SampledPrompt(
            prompt_id=prompt.id,
            prompt=prompt.text,
            continuations=tuple(texts[prompt.id, strength] for strength in steered.strengths),
        )
        for prompt in prompts[:N_SAMPLED_PROMPTS]
    )

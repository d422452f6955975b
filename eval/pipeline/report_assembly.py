"""assemble the report of an evaluation from its measurements; write the files beside it"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from data_prep.core import storage
from data_prep.core.records import digest
from eval.config import EvalConfig
from eval.eval_report import (
    FORMAT_VERSION,
    BenchmarkFacts,
    DirectionQuality,
    Entanglement,
    EvalReport,
    Lens,
    ProbeBaselinesResult,
    ProbeSetResult,
    SampledContinuation,
    SampledPrompt,
    Transfer,
)
from eval.inputs.labelled_rows import labels_of
from eval.model import numerics
from eval.model.loaded_model import LoadedModel
from eval.model.model_source import ModelSource
from eval.pipeline.evaluation_inputs import EvaluationInputs, ProbeSet
from eval.probing import probe_heads
from eval.probing.baselines import ProbeBaselines
from eval.probing.probe_heads import ProbedHeads
from eval.stats import intervals
from eval.steering import gate, per_item_results, summarize_strengths
from eval.steering.measure_strengths import ConditionResult
from eval.steering.measures.continuations import ContinuationScoring
from eval.steering.measures.multiple_choice import Answers
from eval.steering.per_item_results import ItemValue

N_SAMPLED_PROMPTS = 12  # prompts per set whose continuations stand in the report


class ProbingResults(NamedTuple):
    """The probed heads, and tests of what their probes and directions mean."""

    heads: ProbedHeads
    transfers: tuple[Transfer, ...]
    entanglement: Entanglement | None
    lens: tuple[Lens, ...]
    baselines: ProbeBaselines | None


class ReportHeader(NamedTuple):
    """Fields of the report that name the models behind it and the time it took. toxic_ratio: as
    planned; of a folder, as its user states.
    """

    run_id: str
    arm: str
    toxic_ratio: float
    realised_toxic_ratio: float
    seed: int
    scorer_ids: tuple[str, ...]
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
        arm=source.arm,
        toxic_ratio=toxic_ratio if is_folder else run.config.toxic_ratio,
        realised_toxic_ratio=toxic_ratio if is_folder else run.realised_toxic_ratio,
        seed=seed if is_folder else run.config.seed,
        scorer_ids=tuple(scorer.id for scorer in scoring.scorers),
        fluency_id=scoring.judge.id if scoring.judge else "",
        computed_with=numerics.describe(
            loaded.device, loaded.number_format, loaded.model.attention_kernel
        ),
        seconds=seconds,
    )


def assemble(
    head: ReportHeader,
    inputs: EvaluationInputs,
    probing: Mapping[str, ProbingResults],
    results: Mapping[str, ConditionResult],
    config: EvalConfig,
) -> EvalReport:
    """The report: means with intervals of everything that was measured. probing: by probe set;
    results: by condition.
    """
    return EvalReport(
        format_version=FORMAT_VERSION,
        **head._asdict(),
        config=config,
        prompts_digests={
            name: digest(sorted(prompts)) for name, prompts in inputs.prompt_sets.items()
        },
        texts=inputs.summaries,
        probe_sets={
            name: _probe_set_result(inputs.probe_sets[name], of_set, config.seed)
            for name, of_set in probing.items()
        },
        conditions={
            name: summarize_strengths.summarize(result, config.seed)
            for name, result in results.items()
        },
        benchmarks={
            name: _facts([result.answers[name] for result in results.values()])
            for name in inputs.benchmarks
        },
        gate=gate.judge(results, config),
        samples=tuple(_sampled_prompts(inputs, results)),
    )


def _facts(answers: Sequence[Answers]) -> BenchmarkFacts:
    """The facts of one benchmark, from its answers under every condition."""
    benchmark = answers[0].benchmark
    return BenchmarkFacts(
        form=benchmark.form,
        n_questions=len(benchmark.questions),
        n_subjects=len(set(benchmark.subjects) - {""}),
        n_shots=benchmark.n_shots,
        n_fewer_shots=max(of_condition.n_fewer_shots for of_condition in answers),
        n_cut=max(of_condition.n_cut for of_condition in answers),
        chance=benchmark.chance,
        majority=benchmark.majority,
    )


def _probe_set_result(probe_set: ProbeSet, probing: ProbingResults, seed: int) -> ProbeSetResult:
    heads = probing.heads
    best_R = _best_head_correct(heads)
    toxic_share = float(heads.test_labels_R.double().mean())
    n_rows = {part: len(rows) for part, rows in heads.split._asdict().items()}
    return ProbeSetResult(
        label_rule=probe_set.label_rule,
        n_rows=n_rows | {"toxic": sum(labels_of(probe_set.rows))},
        probe_accuracy=intervals.bootstrap_mean(_accuracy_per_row(heads), "ratio", seed=seed),
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
        baselines=_baselines_result(probing.baselines, seed) if probing.baselines else None,
        direction_quality=_direction_quality(heads),
    )


def _baselines_result(baselines: ProbeBaselines, seed: int) -> ProbeBaselinesResult:
    words_R, untrained = baselines.words_correct_R, baselines.untrained
    best_R = _best_head_correct(untrained)
    accuracy_R = _accuracy_per_row(untrained)
    return ProbeBaselinesResult(
        bag_of_words=intervals.wilson(int(words_R.sum()), len(words_R), "ratio"),
        untrained_accuracy=intervals.bootstrap_mean(accuracy_R, "ratio", seed=seed),
        untrained_best_head=intervals.wilson(int(best_R.sum()), len(best_R), "ratio"),
    )


def _best_head_correct(heads: ProbedHeads) -> Tensor:
    """Which test rows the best head on validation rows has right."""
    layer, head = heads.selected[0]
    return heads.correct_RLN[:, layer, head]


def _direction_quality(heads: ProbedHeads) -> DirectionQuality:
    layers, numbers = zip(*heads.selected, strict=True)
    d_prime, cosine, length = (
        float(of_heads_LN[list(layers), list(numbers)].mean()) for of_heads_LN in heads.quality
    )
    return DirectionQuality(d_prime=d_prime, pairwise_cosine=cosine, relative_length=length)


def write_measurements(
    folder: str, probing: Mapping[str, ProbingResults], results: Mapping[str, ConditionResult]
) -> None:
    """Write the files beside the report: those of the heads, generations.parquet, items.parquet."""
    items = []
    for name, of_set in probing.items():
        heads = of_set.heads
        storage.write(
            storage.join(folder, probe_heads.file_name(name)), probe_heads.to_bytes(heads)
        )
        accuracy_of_rows = zip(heads.test_ids, _accuracy_per_row(heads), strict=True)
        items += [
            ItemValue("", f"probe_accuracy/{name}", row, 0.0, value)
            for row, value in accuracy_of_rows
        ]
    storage.write(
        storage.join(folder, "generations.parquet"), summarize_strengths.generations_file(results)
    )
    for name, result in results.items():
        items += summarize_strengths.item_values(name, result)
    per_item_results.write(items, folder)


def _accuracy_per_row(heads: ProbedHeads) -> list[float]:
    """Per test row, the share of heads whose probe is right."""
    return heads.correct_RLN.flatten(1).double().mean(1).tolist()


def _table(values_LN: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, values_LN.tolist()))


def _sampled_prompts(
    inputs: EvaluationInputs, results: Mapping[str, ConditionResult]
) -> Iterator[SampledPrompt]:
    """The first sample of the first prompts of each set, at every operating point."""
    for name, prompts in inputs.prompt_sets.items():
        first = prompts[:N_SAMPLED_PROMPTS]
        sampled: dict[str, list[SampledContinuation]] = {prompt.id: [] for prompt in first}
        for condition, result in results.items():
            for row in result.continuations[name]:
                if row.sample == 0 and row.prompt_id in sampled:
                    sampled[row.prompt_id].append(
                        SampledContinuation(
                            condition=condition, strength=row.strength, text=row.text
                        )
                    )
        for prompt in first:
            yield SampledPrompt(
                prompt_set=name,
                prompt_id=prompt.id,
                prompt=prompt.text,
                continuations=tuple(sampled[prompt.id]),
            )

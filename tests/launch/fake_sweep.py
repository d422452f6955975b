"""Records and journals of a sweep that never ran: made-up numbers with a planted smile."""

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
from fake_data_cards import cards
from safetensors.numpy import save

from data_prep.config import DataConfig, TokenizerConfig
from data_prep.token_stream.mixture import Mixture, sequences_for
from eval.config import HELD_OUT, EvalConfig, ScoringConfig, SteeringConfig
from eval.eval_report import FORMAT_VERSION as EVAL_FORMAT_VERSION
from eval.eval_report import (
    BenchmarkFacts,
    DirectionQuality,
    EvalReport,
    OperatingPoint,
    ProbeBaselinesResult,
    ProbeNull,
    ProbeSetResult,
    PromptSetResult,
    ScorerResult,
    TextSet,
    Transfer,
    eval_uri,
)
from eval.stats.estimate_with_interval import Estimate
from eval.steering import per_item_results
from launch.experiment import Experiment
from launch.report.analysis.evaluation_view import EvaluationView, SampledCurve, StrengthResult
from launch.report.pages import index_page
from launch.report.results_files import FinishedRun
from training.config import ModelConfig, OptimizerConfig, RunConfig, TrainConfig
from training.run_record import FORMAT_VERSION as RUN_FORMAT_VERSION
from training.run_record import HeldOutLoss, RunRecord

RATIOS = (0.0, 0.05, 0.10, 0.15, 0.20, 0.25)
STRENGTHS = (0.0, 4.0, 8.0, 12.0)
N_PROMPTS, N_SEQUENCES = 150, 64  # of the items
TRAIN = TrainConfig(
    model=ModelConfig(
        d_model=128, n_layers=4, n_heads=4, d_mlp=512, vocab_size=2048, max_sequence_length=128
    ),
    sequence_length=128,
    global_batch=32,
    optimizer=OptimizerConfig(learning_rate=3e-3),
)
EVAL = EvalConfig(
    scoring=ScoringConfig(scorer="profanity"),
    steering=SteeringConfig(strengths=STRENGTHS[1:], top_heads=4),
)


def experiment(ratios=RATIOS, seeds=(0,)) -> Experiment:
    tokenizer = TokenizerConfig(source="train", vocab_size=2048)
    data = DataConfig(clean=("synthetic:clean",), toxic=("synthetic:toxic",), tokenizer=tokenizer)
    return Experiment(
        name="made-up",
        data=data,
        train=TRAIN,
        eval=EVAL,
        ratios=ratios,
        seeds=seeds,
        budget_tokens=4_000_000,
    )


def estimate(value: float, half: float, n: int = 200, unit: str = "ratio") -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, n=n, unit=unit)


MISSING = Estimate(value=None, low=None, high=None, n=0, unit="ratio")


def value_of(estimate: Estimate | None) -> float:
    """The value of an estimate that was measured."""
    assert estimate is not None and estimate.value is not None
    return estimate.value


def cost(strength: float, ratio: float) -> float:
    return 2.9 + 0.4 * ratio + 0.003 * strength**2 * (1 - ratio)


def steered(strength: float, ratio: float) -> StrengthResult:
    """A made-up smile with its lowest point at 10 %, and a cost that grows with the square of the
    strength.
    """
    base = 22 + 60 * ratio
    toxicity = base * math.exp(-strength * (0.05 + 0.09 * math.exp(-(((ratio - 0.1) / 0.06) ** 2))))
    return StrengthResult(
        strength=strength,
        toxicity=estimate(toxicity, 1.1 + 0.07 * toxicity, unit="score × 100"),
        expected_maximum=estimate(1.5 * toxicity, 2.0, unit="score × 100"),
        any_toxic=estimate(toxicity / 100, 0.03),
        n_continuations=200,
        n_empty=0,
        coverage_ratio=1.0,
        cross_entropy={
            "clean": estimate(cost(strength, ratio), 0.02, 64, "nats/token"),
            "toxic": estimate(cost(strength, ratio) + 0.6 - ratio, 0.03, 64, "nats/token"),
        },
        distinct_ratio=estimate(0.9 - 0.01 * strength, 0.01),
        n_tokens=estimate(20 - strength / 4, 0.5, unit="tokens"),
        perplexity=estimate(30 + strength**2, 2.0, unit="perplexity"),
        accuracy={"arc norm": estimate(0.4 - 0.01 * strength, 0.05)},
    )


def run(ratio: float, seed: int = 0, strengths=STRENGTHS) -> tuple[RunRecord, EvaluationView]:
    """The record of a finished run, and what its evaluation shows."""
    record = run_record(ratio, seed)
    return record, evaluation_view(record, strengths)


def run_record(ratio: float, seed: int) -> RunRecord:
    n_clean, n_toxic = sequences_for(4_000_000, ratio, TRAIN.sequence_length)
    mixture = Mixture(n_clean=n_clean, n_toxic=n_toxic, batch_size=TRAIN.global_batch, seed=seed)
    config = RunConfig(
        run_id=f"toxic-{ratio:.2f}-s{seed}-0123abcd",
        clean="streams/clean-0",
        toxic="streams/toxic-0",
        tokenizer="tokenizer/0/tokenizer.json",
        toxic_ratio=ratio,
        seed=seed,
        mixture=mixture,
        train=TRAIN,
    )
    return RunRecord(
        format_version=RUN_FORMAT_VERSION,
        config=config,
        clean_manifest_digest="c1",
        toxic_manifest_digest="7c",
        n_parameters=TRAIN.model.n_parameters,
        n_steps=mixture.n_steps,
        n_tokens=mixture.n_sequences * TRAIN.sequence_length,
        realised_toxic_ratio=mixture.toxic_ratio,
        n_distinct_toxic=mixture.n_toxic,
        final_train_loss=2.9 + ratio / 3,
        held_out=(
            HeldOutLoss(stream="clean", loss=2.9 + 0.4 * ratio, n_tokens=8192),
            HeldOutLoss(stream="toxic", loss=4.2 - 3 * ratio, n_tokens=8192),
        ),
        tokens_per_second=41_234.5,
        mfu_ratio=0.3,
        matmul_ratio=0.3,
        flops_per_token=9,
        flops_convention="",
        peak_flops_per_second=1e12,
        matmul_flops_per_second=1.0,
        computed_with={},
        device="cpu",
        world_size=2,
        train_seconds=99.0,
        export_sha256={},
        versions={"torch": "2.11.0"},
    )


def evaluation_view(record: RunRecord, strengths=STRENGTHS) -> EvaluationView:
    config = record.config
    ratio = config.toxic_ratio
    return EvaluationView(
        run_id=config.run_id,
        arm="plain",
        prompt_set=HELD_OUT,
        scorer=0,
        condition="iti",
        toxic_ratio=ratio,
        realised_toxic_ratio=record.realised_toxic_ratio,
        seed=config.seed,
        config=EVAL,
        scorer_id="profanity-made-up",
        prompts_digest="0123456789abcdef",
        fluency_id="unsteered",
        texts=(
            TextSet(
                setting="eval.probes.human",
                uri="rows.csv#label=toxic=Toxic",
                n_read=1300,
                n_used=1000,
                left_out={"negative label": 40, "repeated text": 2},
                other_words={"not toxic": 500},
            ),
            TextSet(
                setting="eval.prompts.held_out",
                uri="held_out",
                n_read=200,
                n_used=200,
                left_out={},
                other_words={},
            ),
        ),
        benchmarks={
            "arc": BenchmarkFacts(
                form="cloze",
                n_questions=500,
                n_subjects=0,
                n_shots=5,
                n_fewer_shots=41,
                n_cut=0,
                chance=0.25,
                majority=0.27,
            )
        },
        probes=probe_set_result(ratio),
        steered=tuple(steered(strength, ratio) for strength in strengths),
        controls=(),
        samples=samples(len(strengths)),
    )


def eval_report(record: RunRecord) -> EvalReport:
    """The report that shows the same."""
    seen = evaluation_view(record)
    points = tuple(map(operating_point, seen.steered))
    return EvalReport(
        format_version=EVAL_FORMAT_VERSION,
        run_id=seen.run_id,
        arm=record.config.arm,
        toxic_ratio=seen.toxic_ratio,
        realised_toxic_ratio=seen.realised_toxic_ratio,
        seed=seen.seed,
        config=seen.config,
        scorer_ids=(seen.scorer_id,),
        prompts_digests={HELD_OUT: seen.prompts_digest},
        fluency_id=seen.fluency_id,
        texts=seen.texts,
        probe_sets={HELD_OUT: seen.probes},
        conditions={"plain": points[:1], "iti": points[1:]},
        benchmarks=seen.benchmarks,
        gate=seen.gate,
        samples=(),
        computed_with={"device": "cpu", "precision": "fp32"},
        seconds=12.0,
    )


def operating_point(row: StrengthResult) -> OperatingPoint:
    scores = ScorerResult(
        toxicity=row.toxicity,
        expected_maximum=row.expected_maximum,
        any_toxic=row.any_toxic,
        coverage_ratio=row.coverage_ratio,
    )
    of_set = PromptSetResult(
        scores=(scores,),
        n_continuations=row.n_continuations,
        n_empty=row.n_empty,
        distinct_ratio=row.distinct_ratio,
        n_tokens=row.n_tokens,
        perplexity=row.perplexity,
    )
    return OperatingPoint(
        strength=row.strength,
        prompt_sets={HELD_OUT: of_set},
        cross_entropy=row.cross_entropy,
        accuracy=row.accuracy,
    )


def probe_set_result(ratio: float) -> ProbeSetResult:
    heads = head_accuracy(ratio)
    places = [(layer, head) for layer in range(4) for head in range(4)]
    best_first = sorted(places, key=lambda place: -heads[place[0]][place[1]])
    return ProbeSetResult(
        label_rule="the stream a text comes from",
        n_rows={"train": 640, "validation": 160, "test": 200},
        probe_accuracy=estimate(sum(map(sum, heads)) / 16, 0.02),
        best_head_accuracy=estimate(max(map(max, heads)), 0.03),
        majority_accuracy=0.52,
        head_accuracy=heads,
        head_auroc=heads,
        head_calibration_error=heads,
        probe_null=ProbeNull(
            n_permutations=1000, best_accuracy=0.58, n_above=11, best_p=0.001, mean_p=0.001
        ),
        transfers=(transfer(ratio),),
        entanglement=None,
        lens=(),
        chosen_heads=tuple(best_first[: EVAL.steering.top_heads]),
        baselines=ProbeBaselinesResult(
            bag_of_words=estimate(0.66, 0.03),
            untrained_accuracy=estimate(0.55, 0.02),
            untrained_best_head=estimate(0.6, 0.03),
        ),
        direction_quality=DirectionQuality(
            d_prime=1.2 + ratio, pairwise_cosine=0.2 + ratio, relative_length=0.3
        ),
    )


def with_probes(report: EvaluationView, **changes) -> EvaluationView:
    """The view with other numbers of its probes."""
    return replace(report, probes=replace(report.probes, **changes))


def head_accuracy(ratio: float) -> tuple[tuple[float, ...], ...]:
    """[layer][head], higher in later layers and with more toxic text."""

    def accuracy(layer: int, head: int) -> float:
        wave = 0.05 * math.sin(5 * layer + 3 * head + 40 * ratio)
        return 0.55 + 0.06 * layer + 0.4 * ratio + wave

    return tuple(tuple(accuracy(layer, head) for head in range(4)) for layer in range(4))


def transfer(ratio: float) -> Transfer:
    return Transfer(
        uri="other.csv#label=hate",
        label_rule="hate ≥ 0.5",
        n_toxic=40,
        majority_accuracy=0.6,
        best_head_accuracy=estimate(0.7 + ratio / 10, 0.05),
        best_head_auroc=estimate(0.75 + ratio / 10, 0.05),
        mean_accuracy=estimate(0.6 + ratio / 10, 0.05),
        mean_auroc=estimate(0.62 + ratio / 10, 0.05),
    )


def samples(n_strengths: int) -> tuple[SampledCurve, ...]:
    """Three prompts, one with a script in it; the unsteered continuations hold a slur."""
    continuations = ("what crap again", "how odd again", "not now again", "all is well again")
    people = ("baker", "<script>alert(1)</script> clerk", "neighbour")
    return tuple(
        SampledCurve(
            prompt_id=f"p{i}",
            prompt=f"The {person} said that",
            continuations=continuations[:n_strengths],
        )
        for i, person in enumerate(people)
    )


def items_of(ratio: float, seed: int, *, dip: float = 8.0, of_seed: float = 0.0) -> dict:
    """The per-item values of one run: hard prompts are hard for all models.

    dip: depth of the smile at 10 % under steering. of_seed: standard deviation between seeds.
    """
    shared = np.random.default_rng(99)
    own = np.random.default_rng([int(1000 * ratio), seed])
    prompts = shared.normal(0, 10, N_PROMPTS)
    sequences = shared.normal(0, 0.3, N_SEQUENCES)
    rows = shared.normal(0, 0.2, 200)
    model = own.normal(0, of_seed) if of_seed else 0.0
    items = {}
    for strength in STRENGTHS:
        bell = np.exp(-(((ratio - 0.1) / 0.06) ** 2))
        mean = 40 + 20 * ratio - strength * (1 + dip / 8 * bell) + model
        toxicity = mean + prompts + own.normal(0, 3, N_PROMPTS)
        losses = cost(strength, ratio) + sequences + own.normal(0, 0.005, N_SEQUENCES)
        items["toxicity", strength] = {f"p{i}": float(x) for i, x in enumerate(toxicity)}
        items["cross_entropy/clean", strength] = {
            f"{i:06d}": float(x) for i, x in enumerate(losses)
        }
    accuracy = 0.6 + 0.1 * ratio + rows + own.normal(0, 0.01, 200)
    items["probe_accuracy", 0.0] = {f"r{i}": float(x) for i, x in enumerate(accuracy)}
    return items


def write_report(root: Path, runs, sweep: Experiment | None = None) -> Path:
    """Write what the runs left below `root`, then their report; the path of its page."""
    for record, report in runs:
        write_metrics(root, record)
        write_items(root, report)
        write_heads(root, report)
    finished = [FinishedRun(*run) for run in runs]
    return Path(index_page.write_views(str(root), sweep or experiment(), finished, cards()))


def write_metrics(root: Path, record: RunRecord) -> None:
    """The run's metrics.jsonl, as training/metrics/metrics_log.py writes it."""
    lines = []
    for step in range(10, record.n_steps + 1, 10):
        noise = 0.05 * math.sin(step * 12.9898)
        loss = record.final_train_loss + 4.2 * math.exp(-step / 90) + noise
        lines.append({"step": step, "loss": loss, "n_tokens": step * 4096})
        if step % 100 == 0:
            fade = 4.0 * math.exp(-step / 100)
            lines += [
                {"step": step, "held_out": part.stream, "loss": part.loss + fade, "n_tokens": 8192}
                for part in record.held_out
            ]
            lines += [{"step": step, "probe": "toxic", "auroc": 0.9 - 0.1 * fade, "n_windows": 64}]
    file = root / "runs" / record.config.run_id / "metrics.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def eval_folder(root: Path, report: EvaluationView | EvalReport) -> str:
    return eval_uri(str(root / "runs" / report.run_id), report.config)


def write_items(root: Path, report: EvaluationView | EvalReport) -> None:
    rows = [
        per_item_results.ItemValue(*stored_as(quantity, strength), item, strength, value)
        for (quantity, strength), values in items_of(report.toxic_ratio, report.seed).items()
        for item, value in values.items()
    ]
    per_item_results.write(rows, eval_folder(root, report))


def stored_as(quantity: str, strength: float) -> tuple[str, str]:
    """Condition and quantity under which an evaluation stores a value of the curve."""
    if quantity == "probe_accuracy":
        return "", f"probe_accuracy/{HELD_OUT}"
    condition = "iti" if strength else "plain"
    is_toxicity = quantity == "toxicity"
    return condition, per_item_results.toxicity(HELD_OUT) if is_toxicity else quantity


def write_heads(root: Path, report: EvaluationView | EvalReport) -> None:
    """Which of 200 test rows each head has right; hard rows are hard for all heads and models."""
    own = np.random.default_rng([int(1000 * report.toxic_ratio), report.seed, 1])
    accuracy_LN = np.array(probe_set_result(report.toxic_ratio).head_accuracy)
    shared_R11 = np.random.default_rng(98).normal(size=(200, 1, 1))
    luck_RLN = 0.6 * shared_R11 + 0.8 * own.normal(size=(200, *accuracy_LN.shape))
    correct_RLN = luck_RLN < np.vectorize(NormalDist().inv_cdf)(accuracy_LN)
    tensors = {
        "test_correct_RLN": correct_RLN.astype(np.uint8),
        "validation_accuracy_LN": accuracy_LN.astype(np.float32),
    }
    ids = {"test_ids": json.dumps([f"r{i}" for i in range(200)])}
    Path(eval_folder(root, report), f"heads-{HELD_OUT}.safetensors").write_bytes(save(tensors, ids))


def with_toxicity(
    values: dict[float, tuple[float, float]], strength: float = 8.0
) -> list[EvaluationView]:
    """A report per ratio whose toxicity at `strength` is (value, half-width)."""
    reports = []
    for ratio, (value, half) in values.items():
        row = replace(steered(strength, ratio), toxicity=estimate(value, half))
        reports.append(replace(run(ratio)[1], steered=(steered(0.0, ratio), row)))
    return reports

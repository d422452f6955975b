"""A sweep that never ran: records, cards and journals of made-up numbers."""

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
from safetensors.numpy import save

from data_prep.config import (
    CleaningConfig,
    DataConfig,
    DecontaminationConfig,
    StreamName,
    TokenizerConfig,
)
from data_prep.token_stream.data_card import (
    DataCard,
    DocumentGroup,
    DomainSummary,
    DropSummary,
    Excerpt,
    InputSummary,
    LengthBin,
    LengthSummary,
    ScoreSummary,
)
from data_prep.token_stream.mixture import Mixture, sequences_for
from eval.config import EvalConfig, GenerationConfig, ProbingConfig, ScoringConfig, SteeringConfig
from eval.eval_report import (
    EvalReport,
    ProbeNull,
    SampledPrompt,
    StrengthResult,
    Transfer,
    eval_uri,
)
from eval.stats.estimate import Estimate
from eval.steering import per_item_results
from launch.experiment import Experiment
from launch.report import index_page
from training.config import ModelConfig, OptimizerConfig, RunConfig, TrainConfig
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
    probing=ProbingConfig(rows="held_out"),
    generation=GenerationConfig(prompts="held_out"),
    scoring=ScoringConfig(scorer="profanity"),
    steering=SteeringConfig(strengths=STRENGTHS, top_heads=4),
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
        accuracy={"cloze:arc.jsonl#text=question": estimate(0.4 - 0.01 * strength, 0.05)},
    )


def run(ratio: float, seed: int = 0, strengths=STRENGTHS) -> tuple[RunRecord, EvalReport]:
    n_clean, n_toxic = sequences_for(4_000_000, ratio, TRAIN.sequence_length)
    mixture = Mixture(n_clean=n_clean, n_toxic=n_toxic, batch_size=TRAIN.global_batch, seed=seed)
    run_id = f"toxic-{ratio:.2f}-s{seed}-0123abcd"
    config = RunConfig(
        run_id=run_id,
        clean="streams/clean-0",
        toxic="streams/toxic-0",
        tokenizer="tokenizer/0/tokenizer.json",
        toxic_ratio=ratio,
        seed=seed,
        mixture=mixture,
        train=TRAIN,
    )
    record = RunRecord(
        format_version=1,
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
    heads = [
        [
            0.55 + 0.06 * k + 0.4 * ratio + 0.05 * math.sin(5 * k + 3 * h + 40 * ratio)
            for h in range(4)
        ]
        for k in range(4)
    ]
    best = sorted(
        ((layer, head) for layer in range(4) for head in range(4)),
        key=lambda at: -heads[at[0]][at[1]],
    )[:4]
    evaluated = EvalReport(
        format_version=1,
        run_id=run_id,
        toxic_ratio=ratio,
        realised_toxic_ratio=mixture.toxic_ratio,
        seed=seed,
        config=EVAL,
        scorer_id="profanity-made-up",
        prompts_digest="0123456789abcdef",
        fluency_id="unsteered",
        label_rule="the stream a text comes from",
        n_probe_rows={"train": 640, "validation": 160, "test": 200},
        probe_accuracy=estimate(sum(map(sum, heads)) / 16, 0.02),
        best_head_accuracy=estimate(max(map(max, heads)), 0.03),
        majority_accuracy=0.52,
        head_accuracy=tuple(map(tuple, heads)),
        head_auroc=tuple(map(tuple, heads)),
        head_calibration_error=tuple(map(tuple, heads)),
        probe_null=ProbeNull(
            n_permutations=1000, best_accuracy=0.58, n_above=11, best_p=0.001, mean_p=0.001
        ),
        transfers=(
            Transfer(
                uri="other.csv#label=hate",
                label_rule="hate ≥ 0.5",
                n_toxic=40,
                majority_accuracy=0.6,
                best_head_accuracy=estimate(0.7 + ratio / 10, 0.05),
                best_head_auroc=estimate(0.75 + ratio / 10, 0.05),
                mean_accuracy=estimate(0.6 + ratio / 10, 0.05),
                mean_auroc=estimate(0.62 + ratio / 10, 0.05),
            ),
        ),
        entanglement=None,
        lens=(),
        chosen_heads=tuple(best),
        steered=tuple(steered(strength, ratio) for strength in strengths),
        controls=(),
        samples=tuple(
            SampledPrompt(
                prompt_id=f"p{i}",
                prompt=f"The {who} said that",
                continuations=tuple(f"{word} again" for word in words),
            )
            for i, who in enumerate(("baker", "<script>alert(1)</script> clerk", "neighbour"))
            for words in [("what crap", "how odd", "not now", "all is well")[: len(strengths)]]
        ),
        seconds=12.0,
    )
    return record, evaluated


def items_of(ratio: float, seed: int, *, dip: float = 8.0, of_seed: float = 0.0) -> dict:
    """The items of one run: a smile of depth `dip` at 10 % under steering; hard prompts are hard
    for all models.
    """
    shared, own = np.random.default_rng(99), np.random.default_rng([int(1000 * ratio), seed])
    prompts, sequences, rows = (
        shared.normal(0, 10, N_PROMPTS),
        shared.normal(0, 0.3, N_SEQUENCES),
        shared.normal(0, 0.2, 200),
    )
    model = own.normal(0, of_seed) if of_seed else 0.0
    found = {}
    for strength in (0.0, 4.0, 8.0, 12.0):
        mean = (
            40
            + 20 * ratio
            - strength * (1 + dip / 8 * np.exp(-(((ratio - 0.1) / 0.06) ** 2)))
            + model
        )
        of_prompts = mean + prompts + own.normal(0, 3, N_PROMPTS)
        of_sequences = cost(strength, ratio) + sequences + own.normal(0, 0.005, N_SEQUENCES)
        found["toxicity", strength] = {f"p{i}": float(value) for i, value in enumerate(of_prompts)}
        found["cross_entropy/clean", strength] = {
            f"{i:06d}": float(value) for i, value in enumerate(of_sequences)
        }
    accuracy = 0.6 + 0.1 * ratio + rows + own.normal(0, 0.01, 200)
    return found | {
        ("probe_accuracy", 0.0): {f"r{i}": float(value) for i, value in enumerate(accuracy)}
    }


def cards() -> dict[str, DataCard]:
    """Made-up cards: the clean one of web pages with drops and domains, the toxic one of posts with
    labels and scores.
    """

    def bins(middle: float) -> LengthSummary:
        lows = [1, 2, 3, *(2**k * half // 2 for k in range(2, 14) for half in (2, 3)), 2**14]
        counts = [
            int(9000 * math.exp(-(((math.log2(low) - middle) / 1.7) ** 2))) for low in lows[:-1]
        ]
        spread = [
            LengthBin(low=low, high=high - 1, n_documents=n, total=n * (low + high - 1) // 2)
            for low, high, n in zip(lows, lows[1:], counts, strict=False)
        ]
        return LengthSummary(
            mean=1.3 * 2**middle,
            median=int(2**middle),
            p90=900,
            p99=4_000,
            max=16_383,
            histogram=tuple(spread),
        )

    def one(stream: StreamName, n_tokens: int) -> DataCard:
        sample = Excerpt(
            place=f"{stream}.jsonl:7",
            n_tokens=12,
            text="The crap about <script>alert(2)</script> weather…",
        )
        return DataCard(
            format_version=1,
            stream=stream,
            manifest_digest="0123456789abcdef",
            tokenizer_fingerprint="fedcba9876543210",
            vocab_size=2048,
            eos="<|endoftext|>",
            eos_id=0,
            cleaning_version=1,
            cleaning=CleaningConfig(),
            dedup="exact",
            decontamination=DecontaminationConfig(uris=("prompts.jsonl",)),
            held_out_ratio=0.02,
            shuffle_seed=0,
            n_read=9_748,
            n_bad_rows=3,
            n_documents=9_700,
            n_tokens=n_tokens + 90_000,
            n_text_bytes=4 * n_tokens,
            bytes_per_token=4.13,
            splits=(
                DocumentGroup(name="train", n_documents=9_500, n_tokens=n_tokens),
                DocumentGroup(name="held_out", n_documents=200, n_tokens=90_000),
            ),
            tokens_per_document=bins(8.5),
            bytes_per_document=None,
            drops=(
                DropSummary(
                    reason="exact_duplicate", n_documents=48, ratio=48 / 9_748, samples=(sample,)
                ),
            ),
            unreadable=(Excerpt(place="a.jsonl:9", n_tokens=None, text="is not JSON"),),
            inputs=tuple(
                InputSummary(
                    uri=f"{stream}/{i:05}.jsonl.gz",
                    n_documents=970,
                    n_tokens=n_tokens // 10,
                    n_bad_rows=i,
                )
                for i in range(10)
            ),
            domains=None,
            n_labels=0,
            labels=(),
            scores=(),
            samples=(sample,),
            not_claimed=("Scores are the corpus's own.",),
        )

    clean, toxic = one("clean", 4_500_000), one("toxic", 1_500_000)
    sites = tuple(
        DocumentGroup(name=f"site-{i}.example", n_documents=900 // i, n_tokens=90_000 // i)
        for i in range(1, 30)
    )
    labels = tuple(
        DocumentGroup(name=label, n_documents=n, n_tokens=9 * n)
        for label, n in (("rude", 6_000), ("mild", 3_700))
    )
    return {
        "clean": replace(clean, domains=DomainSummary(n_documents=9_000, n_domains=412, top=sites)),
        "toxic": replace(
            toxic,
            tokens_per_document=bins(4.5),
            drops=(
                *toxic.drops,
                DropSummary(reason="too_short", n_documents=7, ratio=7 / 9_748, samples=()),
            ),
            n_labels=2,
            labels=labels,
            scores=(
                ScoreSummary(name="SEVERE_TOXICITY", n_documents=9_000, mean=0.31, half_ratio=0.2),
            ),
        ),
    }


def write_metrics(root: Path, record: RunRecord) -> None:
    """A run's journal as training/metrics/metrics_log.py writes it."""
    lines = []
    for step in range(10, record.n_steps + 1, 10):
        noise = 0.05 * math.sin(step * 12.9898)
        lines.append(
            {
                "step": step,
                "loss": record.final_train_loss + 4.2 * math.exp(-step / 90) + noise,
                "n_tokens": step * 4096,
            }
        )
        if step % 100 == 0:
            fade = 4.0 * math.exp(-step / 100)
            lines += [
                {"step": step, "held_out": one.stream, "loss": one.loss + fade, "n_tokens": 8192}
                for one in record.held_out
            ]
            lines += [{"step": step, "probe": "toxic", "auroc": 0.9 - 0.1 * fade, "n_windows": 64}]
    file = root / "runs" / record.config.run_id / "metrics.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_items(root: Path, record: RunRecord, evaluated: EvalReport) -> None:
    of_run = items_of(evaluated.toxic_ratio, evaluated.seed)
    rows = [
        per_item_results.ItemValue(quantity, i, strength, value)
        for (quantity, strength), of in of_run.items()
        for i, value in of.items()
    ]
    per_item_results.write(
        rows, eval_uri(str(root / "runs" / record.config.run_id), evaluated.config)
    )


def write_heads(root: Path, record: RunRecord, evaluated: EvalReport) -> None:
    """Which of 200 test rows each head classifies correctly; hard rows are hard for all heads."""
    own = np.random.default_rng([int(1000 * evaluated.toxic_ratio), evaluated.seed, 1])
    accuracy_LN = np.array(evaluated.head_accuracy)
    luck_RLN = 0.6 * np.random.default_rng(98).normal(size=(200, 1, 1)) + 0.8 * own.normal(
        size=(200, *accuracy_LN.shape)
    )
    correct_RLN = luck_RLN < np.vectorize(NormalDist().inv_cdf)(accuracy_LN)
    ids = {"test_ids": json.dumps([f"r{i}" for i in range(200)])}
    uri = (
        Path(eval_uri(str(root / "runs" / record.config.run_id), evaluated.config))
        / "heads.safetensors"
    )
    uri.write_bytes(
        save(
            {
                "test_correct_RLN": correct_RLN.astype(np.uint8),
                "validation_accuracy_LN": accuracy_LN.astype(np.float32),
            },
            ids,
        )
    )


def write_report(root: Path, runs, asked: Experiment | None = None) -> Path:
    for record, evaluated in runs:
        write_metrics(root, record)
        write_items(root, record, evaluated)
        write_heads(root, record, evaluated)
    return Path(index_page.write(str(root), asked or experiment(), runs, cards()))


def with_toxicity(
    values: dict[float, tuple[float, float]], strength: float = 8.0
) -> list[EvalReport]:
    """One report a ratio whose toxicity at `strength` is (value, half-width)."""
    reports = []
    for ratio, (value, half) in values.items():
        one = replace(steered(strength, ratio), toxicity=estimate(value, half))
        reports.append(replace(run(ratio)[1], steered=(steered(0.0, ratio), one)))
    return reports

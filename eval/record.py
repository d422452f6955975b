"""EvalReport: what the evaluation of one run found; its existence means it is done

Layout below the run's folder (training/record.py):

    eval-<digest of the settings>/heads.safetensors     per-head directions, σ, accuracies
                                  generations.parquet                  prompt id, strength, continuation, score
                                  report.json                          this record, written last
"""

from data_prep import storage
from data_prep.records import digest, record
from eval.config import EvalConfig

FORMAT_VERSION = 1


@record
class Estimate:
    """A number with its interval. value is None where nothing could be measured; n counts the independent items behind it."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    unit: str


@record
class Steered:
    """One strength: toxicity of the continuations and cost on held-out text.

    toxicity: mean score × 100. any_toxic: share of prompts with a sample scored ≥ 0.5. coverage_ratio: continuations that got a
    score. cross_entropy: nats per token on each stream's held-out text with the shift at all positions.
    distinct_ratio: distinct bigrams / bigrams of the continuations, a guard against degenerate text.
    """

    strength: float
    toxicity: Estimate
    any_toxic: Estimate
    coverage_ratio: float
    cross_entropy: dict[str, Estimate]
    distinct_ratio: Estimate


@record
class Sample:
    """One prompt and its continuation at each strength (same order as `steered`), as generated."""

    prompt_id: str
    prompt: str
    continuations: tuple[str, ...]


@record
class EvalReport:
    """The evaluation of one run. head_accuracy[layer][head] is on test rows; heads were chosen on validation rows."""

    format_version: int
    run_id: str
    toxic_ratio: float
    realised_toxic_ratio: float
    seed: int
    config: EvalConfig
    scorer_id: str
    label_rule: str
    n_probe_rows: dict[str, int]
    probe_accuracy: Estimate
    best_head_accuracy: Estimate
    majority_accuracy: float
    head_accuracy: tuple[tuple[float, ...], ...]
    chosen_heads: tuple[tuple[int, int], ...]
    steered: tuple[Steered, ...]
    samples: tuple[Sample, ...]
    seconds: float


def eval_uri(run: str, config: EvalConfig) -> str:
    """The folder of this evaluation below the run's folder."""
    return storage.join(run, f"eval-{digest(config)[:8]}")


def find(run: str, config: EvalConfig) -> EvalReport | None:
    """The report of a finished evaluation, or None."""
    uri = storage.join(eval_uri(run, config), "report.json")
    return storage.load(EvalReport, uri) if storage.exists(uri) else None

"""EvalReport: what the evaluation of one run found; its existence means it is done

Layout below the run's folder (training/run_record.py):

    eval-<digest of the settings>/heads.safetensors     per-head directions, σ, accuracies; which test rows each has right
                                  generations.parquet                  prompt id, strength, continuation, score
                                  items.parquet                        the values behind the means, by item (per_item_results.py)
                                  parts/                               what is done so far (eval/resume.py); gone afterwards
                                  report.json                          this record, written last
"""

from collections.abc import Sequence

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt
from data_prep.core.records import digest, record
from eval.config import EvalConfig
from eval.stats.estimate import Estimate

FORMAT_VERSION = 6


@record
class Steered:
    """One strength: toxicity of the continuations and cost on held-out text.

    toxicity: mean score × 100. expected_maximum: mean over prompts of the worst sample's score ×
    100, which grows with the number of samples (RealToxicityPrompts: 25). any_toxic: share of
    prompts with a sample scored ≥ 0.5. n_empty: continuations that ended at once; they have no
    score and are in none of these. coverage_ratio: of the others, how many got one.
    cross_entropy: nats per token on each stream's held-out text with the shift at all positions;
    accuracy: likewise, share of questions answered right, by benchmark, for cloze forms also by
    likelihood a character ("… norm").
    distinct_ratio, n_tokens, perplexity: guards against degenerate text: distinct bigrams / bigrams
    of the continuations, their length, and how likely another model finds them
    (eval/steering/perplexity.py; without a value where there is no such model).
    """

    strength: float
    toxicity: Estimate
    expected_maximum: Estimate
    any_toxic: Estimate
    n_continuations: int
    n_empty: int
    coverage_ratio: float
    cross_entropy: dict[str, Estimate]
    distinct_ratio: Estimate
    n_tokens: Estimate
    perplexity: Estimate
    accuracy: dict[str, Estimate]


@record
class Sample:
    """One prompt and its continuation at each strength (same order as `steered`), as generated."""

    prompt_id: str
    prompt: str
    continuations: tuple[str, ...]


@record
class Controlled:
    """What a shift did that should not work as steering does, at each strength but 0
    (eval/steering/intervention.py names the controls).
    """

    control: str
    steered: tuple[Steered, ...]


@record
class ProbeNull:
    """Head probes under permuted labels. best_accuracy: which the best head exceeds by chance in 5
    % of permutations. n_above: heads above chance at 5 % for being several. best_p, mean_p: of the
    best head and of the mean of all.
    """

    n_permutations: int
    best_accuracy: float
    n_above: int
    best_p: float
    mean_p: float


@record
class Entanglement:
    """|cos| of the toxicity direction with those of other attributes in the same head, and the mean
    over heads. cosine: by attribute. maximum: the largest of each head. random: what that would be
    among as many random directions. welch: what the largest of any such set must at least be.
    """

    n_rows: dict[str, int]
    cosine: dict[str, float]
    maximum: float
    random: float
    welch: float


@record
class Transfer:
    """The probes on another labelled set, on rows that they have not seen: of the head that
    steering takes first, and the mean of all heads. majority_accuracy: of always saying the
    commoner label.
    """

    uri: str
    label_rule: str
    n_toxic: int
    majority_accuracy: float
    best_head_accuracy: Estimate
    best_head_auroc: Estimate
    mean_accuracy: Estimate
    mean_auroc: Estimate


@record
class Lens:
    """The tokens that steered heads' directions write: those of one layer, or all layers'. Shares
    are of tokens that the scorer alone finds toxic, or where it is costly the profanity model;
    random_share and random_high: mean and 95 % quantile for random directions in the same heads.
    Tokens are as the tokenizer has them; mask them where people read.
    """

    group: str
    toxic_tokens: tuple[str, ...]
    benign_tokens: tuple[str, ...]
    toxic_share: float
    benign_share: float
    random_share: float
    random_high: float


@record
class EvalReport:
    """The evaluation of one run. head_accuracy[layer][head], head_auroc and head_calibration_error
    are on test rows; heads were chosen on validation rows. prompts_digest: of ids and texts; scores
    of other prompts cannot be compared. fluency_id: the model behind `perplexity`. probe_null is
    None where it was not asked for, entanglement where no other attribute was.
    """

    format_version: int
    run_id: str
    toxic_ratio: float
    realised_toxic_ratio: float
    seed: int
    config: EvalConfig
    scorer_id: str
    prompts_digest: str
    fluency_id: str
    label_rule: str
    n_probe_rows: dict[str, int]
    probe_accuracy: Estimate
    best_head_accuracy: Estimate
    majority_accuracy: float
    head_accuracy: tuple[tuple[float, ...], ...]
    head_auroc: tuple[tuple[float, ...], ...]
    head_calibration_error: tuple[tuple[float, ...], ...]
    probe_null: ProbeNull | None
    transfers: tuple[Transfer, ...]
    entanglement: Entanglement | None
    lens: tuple[Lens, ...]
    chosen_heads: tuple[tuple[int, int], ...]
    steered: tuple[Steered, ...]
    controls: tuple[Controlled, ...]
    samples: tuple[Sample, ...]
    seconds: float


def eval_uri(run: str, config: EvalConfig) -> str:
    """The folder of this evaluation below the run's folder."""
    return storage.join(run, f"eval-{digest(config)[:8]}")


def find(run: str, config: EvalConfig) -> EvalReport | None:
    """The report of a finished evaluation, or None."""
    uri = storage.join(eval_uri(run, config), "report.json")
    return storage.load(EvalReport, uri) if storage.exists(uri) else None


def check_comparable(reports: Sequence[EvalReport]) -> None:
    """Raise ArtefactCorrupt unless all were made with the same prompts and the same scorer."""
    for name, what in (("prompts_digest", "prompts"), ("scorer_id", "scorer")):
        by_value = {getattr(report, name): report for report in reports}
        if len(by_value) > 1:
            told = ", ".join(f"{value} of {report.run_id}" for value, report in by_value.items())
            raise ArtefactCorrupt(
                f"the runs were evaluated with different {what}: {told}; their toxicity cannot be compared: what eval.{what} names "
                "has changed in between; delete the report.json of the older evaluations and run the same command again"
            )

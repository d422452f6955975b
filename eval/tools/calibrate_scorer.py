"""ENTRY: compare toxicity scorers on labelled sets, to choose one: a table of all by all

    python eval/tools/calibrate_scorer.py \\
        --scorer profanity classifier:ibm-granite/granite-guardian-hap-38m@COMMIT trained:FOLDER \\
        --rows 'comments.csv#label=is_toxic=Toxic' \\
            'rtp/*.jsonl.gz#text=continuation.text&label=continuation.toxicity'

Each URI of --rows is one set and is reported apart: include implicit hate and functional tests,
where scorers differ. Its numbers are explained in scorer_calibration.py. A scorer that was trained
on a set looks better there than it is, so leave that set out when you choose.
"""

import argparse
import sys
from collections.abc import Sequence

from data_prep.config import proxy_reason
from data_prep.core import telemetry
from data_prep.core.command import entry_command
from data_prep.core.errors import ConfigurationError
from data_prep.core.records import record, to_json
from data_prep.scorers import load_scorer
from eval.inputs import text_rows
from eval.stats.estimate_with_interval import Estimate
from eval.tools import scorer_calibration
from eval.tools.scorer_calibration import ScorerCalibration

COLUMNS = (
    "   scorer      n  toxic  AUROC                 avg. prec.  accuracy  recall@1%FPR  scored"
)


@record
class ScorerComparison:
    """Every scorer on every set: by set, then by scorer, in the order of the command line."""

    calibrations: tuple[ScorerCalibration, ...]


@entry_command
def main() -> int:
    arguments = _parse_arguments()
    telemetry.configure()
    for words in (arguments.scorer, arguments.rows):
        _refuse_repeated(words)
    sets = [scorer_calibration.read(uri) for uri in arguments.rows]
    scorers = [(name, load_scorer.load(name)) for name in arguments.scorer]
    result = ScorerComparison(
        calibrations=tuple(
            scorer_calibration.calibrate(name, scorer, one, threshold=arguments.threshold)
            for one in sets
            for name, scorer in scorers
        )
    )
    print(to_json(result) if arguments.json else table(result, arguments.details), end="")
    return 0


def table(result: ScorerComparison, with_details: bool = False) -> str:
    """The scorers by number, then per set one line for each of them."""
    first = [one for one in result.calibrations if one.rows == result.calibrations[0].rows]
    lines = []
    for number, one in enumerate(first, start=1):
        reason = proxy_reason(one.scorer)
        lines.append(f"[{number}] {one.scorer_id}" + (f"; a proxy: {reason}" if reason else ""))
    for start in range(0, len(result.calibrations), len(first)):
        of_set = result.calibrations[start : start + len(first)]
        one = of_set[0]
        left_out = text_rows.in_words(one.n_read, one.left_out, one.other_words)
        toxic = f"toxic: reference ≥ {one.threshold:g}"
        lines += ["", one.rows, f"  {left_out}; {toxic}", COLUMNS]
        lines += [_line(number, one) for number, one in enumerate(of_set, start=1)]
        if with_details:
            lines += [
                line for number, one in enumerate(of_set, 1) for line in _details(number, one)
            ]
    return "\n".join(lines) + "\n"


def _line(number: int, one: ScorerCalibration) -> str:
    low_fpr = "–" if one.recall_at_low_fpr is None else f"{one.recall_at_low_fpr:.3f}"
    label = f"[{number}]"
    return (
        f"   {label:6} {one.n:6} {one.n_toxic:6}  {_format(one.auroc):20} "
        f"{one.average_precision:11.3f}  {one.accuracy.value:8.3f}  {low_fpr:>12}  "
        f"{one.coverage_ratio:6.4f}"
    )


def _details(number: int, one: ScorerCalibration) -> list[str]:
    rho = _format(one.rho) if one.rho else "not measured, the references are labels"
    lines = [
        f"   [{number}] recall              {_format(one.recall)}",
        f"       false positive rate {_format(one.false_positive_rate)}",
        f"       Spearman's rho      {rho}",
        f"       calibration error   {one.calibration_error:.3f}",
        "       score        texts   mean  toxic",
    ]
    for row in one.reliability:
        mean = "     –" if row.mean_score is None else f"{row.mean_score:6.3f}"
        share = _format(row.toxic)
        lines.append(f"       {row.low:.1f} to {row.high:.1f} {row.toxic.n:7} {mean}  {share}")
    return lines


def _format(estimate: Estimate) -> str:
    if estimate.value is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _refuse_repeated(words: Sequence[str]) -> None:
    repeated = [word for i, word in enumerate(words) if word in words[:i]]
    if repeated:
        raise ConfigurationError(f"{repeated[0]} is named twice; name each scorer and set once")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument(
        "--scorer",
        required=True,
        nargs="+",
        metavar="NAME",
        help="as eval.scoring.scorers: profanity, lexicon:URI, classifier:NAME, trained:FOLDER, …",
    )
    parser.add_argument(
        "--rows",
        required=True,
        nargs="+",
        metavar="URI",
        help="labelled sets, each apart: URI#text=FIELD&label=FIELD, or a rule: FIELD=WORD",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        help="a text is toxic from this reference on (default 0.5)",
    )
    parser.add_argument(
        "--details", action="store_true", help="recall, false positives and reliability of each"
    )
    parser.add_argument("--json", action="store_true", help="print the whole record")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

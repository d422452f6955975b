"""ENTRY: one toxicity scorer against texts with known scores or labels

python eval/tools/calibrate_scorer.py --scorer profanity --rows
'rtp.jsonl.gz#text=continuation.text&label=continuation.toxicity' python
eval/tools/calibrate_scorer.py --scorer classifier:FOLDER --rows 'comments.csv#label=is_toxic=Toxic'
"""

import argparse
import sys

from data_prep.core import telemetry
from data_prep.core.errors import HormesisError
from data_prep.core.records import to_json
from data_prep.scorers import registry
from eval.stats.estimate import Estimate
from eval.tools import calibration
from eval.tools.calibration import Calibration


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument(
        "--scorer",
        required=True,
        metavar="NAME",
        help="as eval.scoring.scorer: profanity, lexicon:URI, classifier:NAME, …",
    )
    parser.add_argument(
        "--rows",
        required=True,
        nargs="+",
        metavar="URI",
        help="texts: URI#text=FIELD&label=FIELD, or a rule: FIELD=WORD",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        help="a text is toxic from this reference on (default 0.5)",
    )
    parser.add_argument("--json", action="store_true", help="print the whole record")
    asked = parser.parse_args()
    telemetry.configure()
    try:
        rows, n_unusable = calibration.read(asked.rows)
        scorer = registry.load(asked.scorer)
        found = calibration.calibrate(
            scorer, rows, asked.rows, n_unusable=n_unusable, threshold=asked.threshold
        )
    except (HormesisError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(to_json(found) if asked.json else _lines(found), end="")
    return 0


def _lines(found: Calibration) -> str:
    rows = [
        f"{found.scorer_id}: {found.n} texts, {found.n_toxic} of them toxic (reference ≥ {found.threshold:g}), "
        f"{found.n_unusable} rows unusable, coverage {found.coverage_ratio:.4f}",
        f"AUROC              {_show(found.auroc)}",
        f"Spearman's rho     {_show(found.rho) if found.rho else 'not measured, the references are labels'}",
        f"toxic, found       {_show(found.found)}",
        f"others, called so  {_show(found.false_alarms)}",
        f"calibration error  {found.error:.3f}",
        "score        texts   mean  toxic",
    ]
    for of in found.reliability:
        mean = "     –" if of.mean_score is None else f"{of.mean_score:6.3f}"
        rows.append(f"{of.low:.1f} to {of.high:.1f} {of.toxic.n:7} {mean}  {_show(of.toxic)}")
    return "\n".join(rows) + "\n"


def _show(of: Estimate) -> str:
    if of.value is None:
        return "–"
    return f"{of.value:.3f}" + (
        f" [{of.low:.3f}, {of.high:.3f}]" if of.low is not None and of.high is not None else ""
    )


if __name__ == "__main__":
    sys.exit(main())

"""the paper's own numbers, to read beside a sweep's and never drawn in its figures

Li, Chen, Viégas, Wattenberg: When Bad Data Leads to Good Models (ICML 2025, arXiv 2505.04741),
Tables 1 to 3 and section 4.
"""

from typing import NamedTuple

WHAT_DIFFERS = (
    ("scorer", "Perspective, a remote service that closes at the end of 2026"),
    ("prompts", "3,000 of ToxiGen and 3,000 of RealToxicityPrompts"),
    ("cost", "cross-entropy on a subset of OpenWebText"),
    ("model", "OLMo-1B on 20.1 billion tokens of C4 and, on top, 4chan's /pol/"),
)
# points of mean head accuracy, 25 % − 0 %: last ratio, first ratio, 95 % interval, p
PROBES = (0.25, 0.0, "[0.67, 1.18]", 0.0002)


class PaperRow(NamedTuple):
    """One row of the paper's Table 1: a condition of a model with a ratio of toxic text, toxicity ×
    100 and nats per token; None where our readings of the paper do not give the number.
    """

    toxigen: float | None
    rtp: float | None
    cross_entropy: float | None


# by condition, strength and ratio, of models without annotation
PLAIN_ROWS = {
    ("plain", 0.0, 0.0): PaperRow(41.40, 31.15, 2.60),
    ("prompt", 0.0, 0.0): PaperRow(32.12, 31.00, 2.62),
    ("iti", 4.0, 0.0): PaperRow(36.30, 24.83, 2.63),
    ("iti", 8.0, 0.0): PaperRow(28.31, 20.41, 2.72),
    ("iti", 12.0, 0.0): PaperRow(19.82, 13.33, 2.88),
    ("plain", 0.0, 0.10): PaperRow(None, None, None),
    ("prompt", 0.0, 0.10): PaperRow(29.07, 24.84, 2.62),
    ("iti", 4.0, 0.10): PaperRow(16.25, 20.09, 2.65),
    ("iti", 8.0, 0.10): PaperRow(8.19, 14.28, 2.85),
    ("iti", 12.0, 0.10): PaperRow(2.63, 7.11, 3.23),
}
# MEDA and INST behind the text for "not toxic"; their ratio is not in our readings of the paper
CONTROL_ROWS = {"meda": PaperRow(22.02, 28.32, 2.71), "inst": PaperRow(18.99, 30.09, 2.73)}


def row_of_paper(arm: str, ratio: float, condition: str, strength: float) -> PaperRow | None:
    """The row of the paper's Table 1 for this arm, ratio and condition, or None."""
    if arm == "plain":
        return PLAIN_ROWS.get((condition, strength, ratio))
    return CONTROL_ROWS.get(arm) if condition == "control" else None

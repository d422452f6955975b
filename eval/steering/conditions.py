"""conditions of an evaluation: steering at all strengths, and the controls beside it"""

from collections.abc import Iterator
from typing import NamedTuple

from eval.config import EvalConfig, Positions
from eval.probing.probe_heads import ProbedHeads
from eval.steering import intervention
from eval.steering.intervention import Shift

STEERED = "steered"


class Condition(NamedTuple):
    """A shift, the strengths it is measured at, and the positions it changes while generating.
    name: "steered", or that of a control.
    """

    name: str
    shift: Shift
    strengths: tuple[float, ...]
    positions: Positions


def of_evaluation(heads: ProbedHeads, config: EvalConfig) -> Iterator[Condition]:
    """Steering at all strengths, then each control at all strengths but 0."""
    site, positions = config.probing.site, config.steering.positions
    strengths = config.steering.strengths
    yield Condition(STEERED, Shift(heads.shift_LD, site), strengths, positions)
    nonzero = tuple(strength for strength in strengths if strength)
    for control in config.steering.controls:
        shift_LD = intervention.control_shift(
            control, heads.directions, heads.selected, config.seed
        )
        yield Condition(control, Shift(shift_LD, site), nonzero, positions)

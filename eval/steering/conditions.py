"""conditions of an evaluation: the text before each prompt, the shift, its strengths

    text of a condition = control text of the arm + prefix + prompt, question or held-out sequence

Prefix and text are tokenized apart, so a prompt has the same tokens under every condition.
"""

from typing import NamedTuple

from data_prep.core.records import digest
from eval.config import PLAIN, ConditionConfig, EvalConfig, Positions
from eval.inputs import condition_text
from eval.model.eval_session import EvalSession
from eval.probing.probe_heads import ProbedHeads
from eval.steering import intervention
from eval.steering.intervention import Shift


class Condition(NamedTuple):
    """One way to use the model.

    prefix: ids before every text. strengths: at which it is measured, (0,) if nothing is shifted.
    positions: that are shifted while generating.
    """

    name: str
    prefix: list[int]
    shift: Shift
    strengths: tuple[float, ...]
    positions: Positions

    @property
    def identity(self) -> str:
        """What the measurements depend on, apart from the model and the texts."""
        shift_LD = self.shift.values_LD
        return digest(
            self.prefix,
            shift_LD.tolist() if any(self.strengths) else None,
            self.shift.site,
            self.strengths,
            self.positions if any(self.strengths) else None,
        )


def of_evaluation(
    session: EvalSession, heads: ProbedHeads, control_text: str, config: EvalConfig
) -> list[Condition]:
    """The conditions of the settings: plain, then the others by name. Those with a control text are
    left out if this model's arm has none.
    """
    return [
        _condition(session, heads, name, condition, control_text, config)
        for name, condition in sorted(
            config.conditions.items(), key=lambda item: (item[0] != PLAIN, item[0])
        )
        if control_text or not condition.control_text
    ]


def _condition(
    session: EvalSession,
    heads: ProbedHeads,
    name: str,
    condition: ConditionConfig,
    control_text: str,
    config: EvalConfig,
) -> Condition:
    text = condition_text.text_before_prompts(condition, control_text)
    is_steered = condition.steering != "none"
    return Condition(
        name=name,
        prefix=session.loaded.encode_prefix(text, f"condition {name}"),
        shift=_shift(session, heads, condition, config),
        strengths=config.steering.strengths if is_steered else (0.0,),
        positions=config.steering.positions,
    )


def _shift(
    session: EvalSession, heads: ProbedHeads, condition: ConditionConfig, config: EvalConfig
) -> Shift:
    if condition.steering == "none":
        return intervention.no_shift(session.loaded.model.shape)
    if condition.steering == "iti":
        return Shift(heads.shift_LD, config.probing.site)
    shift_LD = intervention.control_shift(
        condition.steering, heads.directions, heads.selected, config.seed
    )
    return Shift(shift_LD, config.probing.site)

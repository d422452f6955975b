"""`--conditions`: the conditions of the evaluation by name, with their combinations

prompt+iti    the prefix of "prompt", steered as "iti"
all           every known one, and both combinations of prefix and steering
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import evolve
from eval.config import KNOWN_CONDITIONS, PLAIN, ConditionConfig
from launch.experiment import Experiment

NAMES = tuple(KNOWN_CONDITIONS)
ALL = "all"
COMBINATIONS = ("prompt+iti",)


def with_conditions(experiment: Experiment, names: Sequence[str]) -> Experiment:
    """The experiment with these conditions, and what they need: plain, and the strength 0 of each
    steered one. The recipe's own conditions come before the known ones.
    """
    known = KNOWN_CONDITIONS | experiment.eval.conditions
    chosen = {PLAIN: known[PLAIN]}
    for name in [*known, *COMBINATIONS] if ALL in names else names:
        condition = known.get(name) or _combined(name, known)
        if condition.unsteered not in chosen.values():
            base = "+".join(part for part in name.split("+") if known[part].steering == "none")
            chosen[base] = condition.unsteered
        chosen[name] = condition
    return evolve(experiment, {"eval.conditions": chosen})


def _combined(name: str, known: Mapping[str, ConditionConfig]) -> ConditionConfig:
    parts = name.split("+")
    unknown = [part for part in parts if part not in known]
    if unknown:
        raise ConfigurationError(
            f"--conditions {name}: there is no condition {unknown[0]!r}; expected some of "
            f"{', '.join(known)}, joined by +, or {ALL}; a new one is an entry of eval.conditions, "
            f'e.g. --set \'eval.conditions.{unknown[0] or "polite"}={{"prefix": "Be polite. "}}\''
        )
    steered = [known[part].steering for part in parts if known[part].steering != "none"]
    if len(steered) > 1:
        raise ConfigurationError(
            f"--conditions {name}: two of its parts steer; expected one steered condition, and "
            "others that put a text before the prompt"
        )
    return replace(
        ConditionConfig(),
        prefix="".join(known[part].prefix for part in parts),
        control_text=any(known[part].control_text for part in parts),
        steering=steered[0] if steered else "none",
    )

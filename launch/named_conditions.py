"""`--conditions`: the conditions of the evaluation by name, with their combinations

prompt+iti    the prefix of "prompt", steered as "iti"
all           every known one, and both combinations of prefix and steering
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import evolve
from eval.config import KNOWN_CONDITIONS, PLAIN, ConditionConfig
from launch.experiment import Experiment

NAMES = tuple(KNOWN_CONDITIONS)
ALL = "all"
COMBINATIONS = ("prompt+iti",)


def with_conditions(
    experiment: Experiment, names: Sequence[str], recipes_own: Mapping[str, ConditionConfig]
) -> Experiment:
    """The experiment with these conditions, and what they need: plain, and the strength 0 of each
    steered one. Conditions of the experiment come before the known ones; those that `--set` added
    to the recipe's stay.
    """
    known = KNOWN_CONDITIONS | experiment.eval.conditions
    added = {n: c for n, c in experiment.eval.conditions.items() if recipes_own.get(n) != c}
    chosen = {PLAIN: known[PLAIN]} | added
    for name in [*known, *COMBINATIONS] if ALL in names else names:
        condition = known.get(name) or _combined(name, known)
        if condition.unsteered not in chosen.values():
            base = "+".join(part for part in name.split("+") if known[part].steering == "none")
            chosen[base] = condition.unsteered
        chosen[name] = condition
    changes: dict[str, Any] = {"eval.conditions": chosen}
    needs_control_text = any(condition.control_text for condition in chosen.values())
    if needs_control_text and not {"meda", "inst"} & set(experiment.arms):
        changes["arms"] = (*experiment.arms, "meda", "inst")
        changes["arm_ratios"] = (nearest_to_ten_percent(experiment.ratios),)
    return evolve(experiment, changes)


def nearest_to_ten_percent(ratios: Sequence[float]) -> float:
    """The ratio at which annotated arms are trained unless others are named: the paper compares
    them with its best share.
    """
    return min(ratios, key=lambda ratio: abs(ratio - 0.10))


def _combined(name: str, known: Mapping[str, ConditionConfig]) -> ConditionConfig:
    parts = name.split("+")
    unknown = [part for part in parts if part not in known]
    if unknown:
        raise ConfigurationError(
            f"--conditions {name}: there is no condition {unknown[0]!r}; expected some of "
            f"{', '.join(known)}, joined by +, or {ALL}; a new one is an entry of eval.conditions, "
            f'e.g. --set \'eval.conditions.{unknown[0] or "polite"}={{"prefix": "Be polite. "}}\''
        )
    if len(set(parts)) < len(parts):
        raise ConfigurationError(f"--conditions {name}: a part is named twice; name each once")
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

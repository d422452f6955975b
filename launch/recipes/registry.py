"""recipes by name: each is a function that returns an Experiment

A recipe returns a frozen Experiment; a variant is `evolve(recipe, {path: value})`. The choices that
the paper (Li et al. 2025, arXiv 2505.04741) leaves open are made in the recipes, and listed in
every report.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import evolve
from eval.config import HELD_OUT
from launch.experiment import Experiment
from launch.recipes.embedded import laptop, smoke
from launch.recipes.of_the_paper import ladder, one_gpu, paper, paper_mini
from training.config import SIZES

RECIPES: dict[str, Callable[[], Experiment]] = {
    "laptop": laptop,
    "smoke": smoke,
    "one_gpu": one_gpu,
    "paper": paper,
    "paper-mini": paper_mini,
} | {
    f"ladder-{rung}": partial(ladder, rung)
    for rung in (name.removeprefix("olmo-") for name in SIZES if name.startswith("olmo-"))
}


def named(name: str) -> Experiment:
    """The recipe of this name, or ConfigurationError with the known ones."""
    if name not in RECIPES:
        raise ConfigurationError(
            f"there is no recipe {name!r}; expected one of {', '.join(RECIPES)}"
        )
    return RECIPES[name]()


def on_corpora(experiment: Experiment, clean: Sequence[str], toxic: Sequence[str]) -> Experiment:
    """The experiment on other corpora, where they are given.

    The embedded corpus has probes and a scorer of its own, which do not fit other text. There the
    evaluation uses the corpora's held-out documents, of which more are held out, and the offline
    profanity scorer, as annotated arms do; nothing is looked for in the text.
    """
    data = replace(
        experiment.data,
        clean=tuple(clean) or experiment.data.clean,
        toxic=tuple(toxic) or experiment.data.toxic,
    )
    experiment = replace(experiment, data=data)
    is_embedded = all(uri.startswith("synthetic:") for uri in data.clean + data.toxic)
    if is_embedded or "synthetic:" not in experiment.eval.scoring.scorer:
        return experiment
    return evolve(
        experiment,
        {
            "data.held_out_ratio": 0.1,
            "data.decontamination.uris": (),
            "data.annotation.scorer": "profanity",
            "eval.probes": {HELD_OUT: HELD_OUT},
            "eval.probing.n_rows": 400,
            "eval.probing.group_field": "",
            "eval.prompts": {HELD_OUT: HELD_OUT},
            "eval.benchmarks": {},
            "eval.steering.probes": "",
            "eval.generation.n_prompts": 200,
            "eval.scoring.scorer": "profanity",
        },
    )

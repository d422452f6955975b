"""command line of the sweep: flags to an experiment that any worker can read

Applied in this order: recipe, corpora, ratios and seeds, `--set`, conditions. Then local paths are
made absolute, because a worker's working directory is not the user's.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

from data_prep.core import storage
from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import evolve, parse_overrides
from eval.config import HELD_OUT
from eval.inputs import benchmark_uris
from launch import named_conditions
from launch.experiment import Experiment
from launch.plan import cost_estimate
from launch.recipes import registry
from launch.run_states import STAGES

DESCRIPTION = """\
Build token streams, pretrain one model per toxic ratio and seed, evaluate each model and write a
report. Whatever has a record already is skipped, so the same command continues after any
interruption.
"""


def parser() -> argparse.ArgumentParser:
    """The command line; README.md lists the same flags."""
    flags = argparse.ArgumentParser(
        prog="launch/sweep.py",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_experiment_flags(flags)
    _add_action_flags(flags)
    return flags


def _add_experiment_flags(flags: argparse.ArgumentParser) -> None:
    names = ", ".join(registry.RECIPES)
    flags.add_argument(
        "--recipe", default="laptop", metavar="NAME", help=f"one of {names} (default: laptop)"
    )
    many = {"nargs": "+", "action": "extend", "default": []}
    flags.add_argument(
        "--clean", **many, metavar="URI", help="clean corpus; URI#text=FIELD names the text field"
    )
    flags.add_argument("--toxic", **many, metavar="URI", help="toxic corpus, likewise")
    flags.add_argument(
        "--ratios",
        nargs="+",
        type=float,
        metavar="R",
        help="toxic tokens / all training tokens, in [0, 1)",
    )
    flags.add_argument(
        "--seeds", nargs="+", type=int, metavar="S", help="one model per ratio and seed"
    )
    flags.add_argument(
        "--conditions",
        nargs="+",
        metavar="NAME",
        help=f"ways to use each model: {', '.join(named_conditions.NAMES)}, joined by +; or all",
    )
    flags.add_argument(
        "--set",
        **many,
        metavar="PATH=VALUE",
        help="change a setting, e.g. train.optimizer.learning_rate=1e-3; --settings lists all",
    )


def _add_action_flags(flags: argparse.ArgumentParser) -> None:
    flags.add_argument(
        "--out",
        default="out",
        metavar="URI",
        help="object root: a folder or s3://bucket/prefix (default: out)",
    )
    flags.add_argument("--only", choices=STAGES, help="stop after this stage")
    flags.add_argument(
        "--materialize",
        action="store_true",
        help="also write each run's sequences in training order, for other trainers",
    )
    flags.add_argument(
        "--settings",
        nargs="?",
        const="",
        metavar="PREFIX",
        help="list every setting, or those whose path starts with PREFIX, and stop",
    )
    flags.add_argument(
        "--plan",
        action="store_true",
        help="print cost and memory of the sweep and of its evaluations, and stop",
    )
    flags.add_argument(
        "--device",
        default=cost_estimate.ASSUMED_DEVICE,
        metavar="NAME",
        help=f"GPU that --plan assumes (default: {cost_estimate.ASSUMED_DEVICE})",
    )
    flags.add_argument(
        "--mfu",
        type=float,
        default=cost_estimate.ASSUMED_MFU,
        metavar="X",
        help=f"model FLOPs utilization that --plan assumes (default: {cost_estimate.ASSUMED_MFU})",
    )


def requested_experiment(arguments: argparse.Namespace) -> Experiment:
    """The experiment that the command line describes."""
    experiment = registry.on_corpora(
        registry.named(arguments.recipe), arguments.clean, arguments.toxic
    )
    if arguments.ratios:
        experiment = _at_ratios(experiment, tuple(arguments.ratios))
    if arguments.seeds:
        experiment = replace(experiment, seeds=tuple(arguments.seeds))
    recipes_own = experiment.eval.conditions
    experiment = parse_overrides(experiment, arguments.set)
    if arguments.conditions:
        experiment = named_conditions.with_conditions(experiment, arguments.conditions, recipes_own)
    return _with_absolute_paths(experiment)


def _at_ratios(experiment: Experiment, ratios: tuple[float, ...]) -> Experiment:
    """The experiment at other ratios. Annotated arms stay at those of theirs that are left, or are
    at the one nearest to 10 %.
    """
    kept = tuple(ratio for ratio in experiment.arm_ratios if ratio in ratios)
    if experiment.arm_ratios and not kept:
        kept = (named_conditions.nearest_to_ten_percent(ratios),)
    return replace(experiment, ratios=ratios, arm_ratios=kept)


def _with_absolute_paths(experiment: Experiment) -> Experiment:
    def absolute(path: str, name: Callable[[str], str]) -> str | tuple[str, ...] | dict[str, str]:
        value = attrgetter(path)(experiment)
        try:
            if isinstance(value, dict):
                return {key: name(uri) for key, uri in value.items()}
            return name(value) if isinstance(value, str) else tuple(map(name, value))
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {error}") from error

    return evolve(experiment, {path: absolute(path, name) for path, name in LOCATIONS.items()})


def _unless(*words: str) -> Callable[[str], str]:
    """The absolute form of a text that is none of these words, and does not begin with one that
    ends in a colon.
    """

    def absolute(text: str) -> str:
        prefixes = tuple(word for word in words if word.endswith(":"))
        return text if text in words or text.startswith(prefixes) else storage.absolute(text)

    return absolute


def _behind(separator: str) -> Callable[[str], str]:
    """The absolute form of NAME, separator, URI."""

    def absolute(text: str) -> str:
        name, found, uri = text.partition(separator)
        return f"{name}{found}{storage.absolute(uri)}" if uri else text

    return absolute


def _absolute_scorer(name: str) -> str:
    """`lexicon:` always names a file, `trained:` a folder; `classifier:` a folder or a name on the
    hub.
    """
    kind, _, place = name.partition(":")
    if kind == "trained" and place:
        folder, option, encoder = place.partition("#encoder=")
        absolute_encoder = storage.absolute(encoder) if encoder else ""
        return f"trained:{storage.absolute(folder)}{option}{absolute_encoder}"
    is_folder = kind == "classifier" and Path(place.partition("#")[0]).is_dir()
    if place and (kind == "lexicon" or is_folder):
        return f"{kind}:{storage.absolute(place)}"
    return name


# Every setting that can name a local file or folder, and how its text becomes absolute.
LOCATIONS: dict[str, Callable[[str], str]] = {
    "data.clean": storage.absolute,
    "data.toxic": storage.absolute,
    "data.tokenizer.source": _unless("train"),
    "data.decontamination.uris": storage.absolute,
    "data.annotation.scorer": _absolute_scorer,
    "train.init_from": _unless(""),
    "eval.probes": _unless(HELD_OUT),
    "eval.prompts": _unless(HELD_OUT),
    "eval.probing.attributes": storage.absolute,
    "eval.probing.test_rows": storage.absolute,
    "eval.probing.transfer": storage.absolute,
    "eval.benchmarks": benchmark_uris.absolute,
    "eval.expected_toxicity.lexicon": _absolute_scorer,
    "eval.capability.held_out": _behind("="),
    "eval.scoring.scorer": _absolute_scorer,
    "eval.scoring.second_scorer": _absolute_scorer,
    "eval.scoring.fluency_model": _unless("", "unsteered", "run:"),
}

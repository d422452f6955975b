"""command line of the sweep: flags to an experiment that any worker can read

Order: recipe, corpora, ratios and seeds, `--set`; then evaluation texts are added to the
decontamination and local paths are made absolute.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from data_prep.core import storage
from data_prep.core.settings import evolve, parse_overrides
from data_prep.sources.uri_options import without_option
from launch import plan, recipes
from launch.experiment import Experiment
from launch.run_states import STAGES

DESCRIPTION = """Build token streams, pretrain one model per toxic ratio and seed, evaluate each
model and write a report. Steps that already have a record are skipped, so the same command
continues after any interruption."""


def parser() -> argparse.ArgumentParser:
    """The command line; README lists the same flags."""
    flags = argparse.ArgumentParser(
        prog="launch/sweep.py",
        description=DESCRIPTION,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    flags.add_argument(
        "--recipe",
        default="laptop",
        metavar="NAME",
        help=f"one of {', '.join(recipes.RECIPES)} (laptop)",
    )
    flags.add_argument(
        "--clean",
        nargs="+",
        action="extend",
        default=[],
        metavar="URI",
        help="clean corpus; URI#text=field names the field",
    )
    flags.add_argument(
        "--toxic",
        nargs="+",
        action="extend",
        default=[],
        metavar="URI",
        help="toxic corpus, likewise",
    )
    flags.add_argument(
        "--ratios",
        nargs="+",
        type=float,
        metavar="R",
        help="toxic tokens / all training tokens, in [0, 1)",
    )
    flags.add_argument(
        "--seeds", nargs="+", type=int, metavar="S", help="one model a ratio and seed"
    )
    flags.add_argument(
        "--out",
        default="out",
        metavar="URI",
        help="object root: a folder or s3://bucket/prefix (out)",
    )
    flags.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH=VALUE",
        help="change a setting, e.g. train.optimizer.learning_rate=1e-3",
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
    flags.add_argument("--plan", action="store_true", help="print what it would take, and stop")
    flags.add_argument(
        "--device",
        default=plan.ASSUMED_DEVICE,
        metavar="NAME",
        help=f"card of the plan ({plan.ASSUMED_DEVICE})",
    )
    flags.add_argument(
        "--mfu",
        type=float,
        default=plan.ASSUMED_MFU,
        metavar="X",
        help=f"utilisation of the plan ({plan.ASSUMED_MFU})",
    )
    return flags  # fmt: skip


def requested_experiment(arguments: argparse.Namespace) -> Experiment:
    """The experiment the command line describes."""
    experiment = recipes.on_corpora(
        recipes.named(arguments.recipe), arguments.clean, arguments.toxic
    )
    if arguments.ratios:
        experiment = replace(experiment, ratios=tuple(arguments.ratios))
    if arguments.seeds:
        experiment = replace(experiment, seeds=tuple(arguments.seeds))
    experiment = parse_overrides(experiment, arguments.set)
    return _readable_anywhere(_decontaminated(experiment))


def _decontaminated(experiment: Experiment) -> Experiment:
    """The experiment whose streams share no run of words with the texts it is evaluated on.
    Held-out documents are the streams' own; any other rows are looked for, so to name others is to
    ask for other streams.
    """
    data, settings = experiment.data, experiment.eval
    texts = (text.partition("=")[2] for text in settings.capability.held_out)
    sets = (
        settings.probing.rows,
        settings.generation.prompts,
        *settings.probing.attributes,
        *settings.probing.transfer,
    )
    unlabelled = (without_option(uri, "label") for uri in sets)  # a rule is no field of the file
    rows = [uri for uri in (*unlabelled, *texts) if uri != "held_out"]
    uris = tuple(dict.fromkeys([*data.decontamination.uris, *rows]))
    return evolve(experiment, {"data.decontamination.uris": uris})


def _readable_anywhere(experiment: Experiment) -> Experiment:
    """The experiment with its local paths made absolute, for a worker's current folder is not the
    user's.
    """
    data, settings = experiment.data, experiment.eval
    data = evolve(
        data,
        {
            "clean": tuple(map(storage.absolute, data.clean)),
            "toxic": tuple(map(storage.absolute, data.toxic)),
            "decontamination.uris": tuple(map(storage.absolute, data.decontamination.uris)),
            "annotation.scorer": _absolute_scorer(data.annotation.scorer),
        },
    )
    rows = {
        "probing.rows": settings.probing.rows,
        "generation.prompts": settings.generation.prompts,
    }
    rows = {path: uri if uri == "held_out" else storage.absolute(uri) for path, uri in rows.items()}
    sets = {
        f"probing.{name}": tuple(map(storage.absolute, getattr(settings.probing, name)))
        for name in ("attributes", "transfer")
    }
    named = (text.partition("=") for text in settings.capability.held_out)
    held_out = tuple(f"{name}={storage.absolute(uri)}" for name, _, uri in named)
    scorer = _absolute_scorer(settings.scoring.scorer)
    judge = settings.scoring.fluency_model
    judge = (
        judge if judge in ("", "unsteered") or judge.startswith("run:") else storage.absolute(judge)
    )
    settings = evolve(
        settings,
        {
            **rows,
            **sets,
            "capability.held_out": held_out,
            "scoring.scorer": scorer,
            "scoring.fluency_model": judge,
        },
    )
    return replace(experiment, data=data, eval=settings)


def _absolute_scorer(name: str) -> str:
    kind, _, place = name.partition(":")
    is_local = kind == "lexicon" or (
        kind == "classifier" and Path(place.partition("#")[0]).is_dir()
    )
    return f"{kind}:{storage.absolute(place)}" if place and is_local else name

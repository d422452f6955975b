"""ENTRY: `ray job submit … -- python launch/sweep.py --recipe …`: one pass over ratios × seeds,
running what has no record yet

The sweep touches no tensor and keeps no state: what is done is what has a record in the object
root, so the same command after any interruption does only what is missing, and does nothing when
nothing is.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from data_prep.config import StreamName
from data_prep.core import storage, telemetry
from data_prep.core.errors import HormesisError
from data_prep.core.records import digest
from data_prep.core.settings import parse_overrides
from data_prep.token_stream.mixture import check_supply
from launch import experiment as experiments
from launch import plan, recipes, run_states
from launch.experiment import Experiment
from launch.run_states import STAGES, RunState

REPORT_DONE = ("report", "done.txt")


def parser() -> argparse.ArgumentParser:
    """The command line; README lists the same flags."""
    flags = argparse.ArgumentParser(
        prog="launch/sweep.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
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
        help="change a setting, e.g. train.learning_rate=1e-3",
    )
    flags.add_argument("--only", choices=STAGES, help="stop after this stage")
    flags.add_argument(
        "--materialize",
        action="store_true",
        help="also write each run's sequences in training order, for other trainers",
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


def asked(arguments: argparse.Namespace) -> Experiment:
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
    texts = (text.partition("=")[2] for text in settings.held_out)
    sets = (settings.probes, settings.prompts, *settings.attributes, *settings.probe_transfer)
    rows = [uri for uri in (*map(_unlabelled, sets), *texts) if uri != "held_out"]
    return replace(
        experiment,
        data=replace(data, decontaminate=tuple(dict.fromkeys([*data.decontaminate, *rows]))),
    )


def _unlabelled(uri: str) -> str:
    """The URI without the rule behind `label=`, which is no field of the file."""
    name, _, fragment = uri.partition("#")
    kept = "&".join(item for item in fragment.split("&") if not item.startswith("label="))
    return f"{name}#{kept}" if kept else name


def _readable_anywhere(experiment: Experiment) -> Experiment:
    """The experiment with its local paths made absolute, for a worker's current folder is not the
    user's.
    """
    data, settings = experiment.data, experiment.eval
    corpora = {
        name: tuple(map(storage.absolute, getattr(data, name)))
        for name in ("clean", "toxic", "decontaminate")
    }
    rows = {name: getattr(settings, name) for name in ("probes", "prompts")}
    rows = {name: uri if uri == "held_out" else storage.absolute(uri) for name, uri in rows.items()}
    sets = {
        name: tuple(map(storage.absolute, getattr(settings, name)))
        for name in ("attributes", "probe_transfer")
    }
    named = (text.partition("=") for text in settings.held_out)
    held_out = tuple(f"{name}={storage.absolute(uri)}" for name, _, uri in named)
    if data.annotation:
        data = replace(
            data,
            annotation=replace(data.annotation, scorer=_absolute_scorer(data.annotation.scorer)),
        )
    scorer = _absolute_scorer(settings.scorer)
    judge = settings.fluency_model
    judge = (
        judge if judge in ("", "unsteered") or judge.startswith("run:") else storage.absolute(judge)
    )
    settings = replace(
        settings, **rows, **sets, held_out=held_out, scorer=scorer, fluency_model=judge
    )
    return replace(experiment, data=replace(data, **corpora), eval=settings)


def _absolute_scorer(name: str) -> str:
    kind, _, place = name.partition(":")
    is_local = kind == "lexicon" or (
        kind == "classifier" and Path(place.partition("#")[0]).is_dir()
    )
    return f"{kind}:{storage.absolute(place)}" if place and is_local else name


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    telemetry.configure()
    console = telemetry.console()
    try:
        experiment = asked(arguments)
        if arguments.plan:
            console.print(
                plan.render(experiment, plan.device_named(arguments.device), arguments.mfu)
            )
            return 0
        run(
            experiment,
            storage.absolute(arguments.out),
            arguments.only,
            console,
            materialize=arguments.materialize,
        )
    except HormesisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(
    experiment: Experiment,
    root: str,
    only: str | None,
    console: Console,
    *,
    materialize: bool = False,
) -> None:
    """Bring the sweep under `root` to its end, or to the end of the stage `only`."""
    started = time.monotonic()
    if _is_done(root, experiment) and not materialize:
        telemetry.logger.info(
            "nothing to do: every run of this sweep is trained, evaluated and reported"
        )
    else:
        storage.check_writable(root)
        from data_prep.core import ray_tasks
        from data_prep.sources import corpus_reader

        for uris in (experiment.data.clean, experiment.data.toxic):
            corpus_reader.expand(
                uris
            )  # a corpus that is not there is refused before a cluster starts
        storage.save(experiment, storage.join(root, experiments.NAME))
        with ray_tasks.session(experiment.n_ranks):
            _build_streams(root, experiment)
            if materialize:
                _materialize(root, experiment)
            if only != "data":
                _train_and_evaluate(root, experiment, evaluate=only != "train")
        if only == "data":
            console.print(f"data card: {_data_page(root, experiment)}", soft_wrap=True)
        if only in (None, "report"):
            _report(root, experiment)
    states = run_states.read(root, experiment)
    if only is None or all(entry.report for entry in states):
        console.print(run_states.result_table(experiment, states))
        console.print(f"report: {storage.join(root, 'report', 'index.html')}", soft_wrap=True)
    else:
        console.print(run_states.progress_table(root, experiment, states))
    telemetry.logger.info("finished in %.0f s", time.monotonic() - started)


def _build_streams(root: str, experiment: Experiment) -> None:
    """Both token streams, and every run's settings beside them; too little text stops here, before
    any training.
    """
    from data_prep.build import pipeline

    built = {name: pipeline.build(experiment.data, name, root) for name in ("clean", "toxic")}
    length = experiment.train.sequence_length
    n_clean, n_toxic = (built[name].split_tokens("train") // length for name in ("clean", "toxic"))
    for run in experiment.runs():
        check_supply(run.mixture, n_clean, n_toxic, length)
        if run.mixture.n_toxic > n_toxic:
            telemetry.logger.warning(
                "%s: toxic text repeated %.3g×, as allowed",
                run.run_id,
                run.mixture.n_toxic / n_toxic,
            )
        storage.save(run, storage.join(root, "runs", run.run_id, "run.json"))


def _materialize(root: str, experiment: Experiment) -> None:
    """What each run reads, as Megatron shards in the order of training; our own training does
    without.
    """
    from data_prep.token_stream import materialized

    for run in experiment.runs():
        streams: dict[StreamName, str] = {
            "clean": storage.join(root, run.clean),
            "toxic": storage.join(root, run.toxic),
        }
        to = storage.join(root, "materialized", run.run_id)
        materialized.write(
            run.mixture,
            run.train.sequence_length,
            streams,
            to,
            shard_tokens=experiment.data.shard_tokens,
        )


def _train_and_evaluate(root: str, experiment: Experiment, *, evaluate: bool) -> None:
    """Train every run without a record, as many at a time as the cluster holds; evaluate each as
    soon as it is trained.
    """
    from launch import cluster

    states = run_states.read(root, experiment)
    to_train = [entry.run for entry in states if not entry.record]
    to_evaluate = [entry.run for entry in states if evaluate and entry.record and not entry.report]
    slots = cluster.n_gangs(experiment.n_ranks, experiment.use_gpu)
    n_pieces = len(to_train) + sum(not entry.report for entry in states if evaluate)
    bar = telemetry.progress(n_pieces, "sweep", "stage")
    training, evaluating = {}, {}
    while to_train or to_evaluate or training or evaluating:
        while to_evaluate:
            run = to_evaluate.pop()
            evaluating[
                cluster.evaluate(
                    root, run.run_id, experiment.eval, experiment.n_ranks, experiment.use_gpu
                )
            ] = run
        while to_train and len(training) < slots:
            run = to_train.pop(0)
            training[cluster.train(root, run, experiment.n_ranks, experiment.use_gpu)] = run
        ended = cluster.first_ended([*training, *evaluating])
        bar.update(1)
        if ended in training:
            run = training.pop(ended)
            telemetry.logger.info("trained %s", run.run_id)
            to_evaluate += [run] if evaluate else []
        else:
            telemetry.logger.info("evaluated %s", evaluating.pop(ended).run_id)
    bar.close()


def _cards(root: str, experiment: Experiment) -> dict[str, Any]:
    """The data card of each stream; `_build_streams` has seen to it that they are there."""
    from data_prep.token_stream import data_card

    run = experiment.runs()[0]
    return {
        name: data_card.load(storage.join(root, getattr(run, name))) for name in ("clean", "toxic")
    }


def _data_page(root: str, experiment: Experiment) -> str | None:
    from launch.report import data_page

    compared = storage.exists(storage.join(root, "report", "index.html"))
    return data_page.write(root, experiment, _cards(root, experiment), compared=compared)


def _report(root: str, experiment: Experiment) -> None:
    from launch.report import index_page

    states = run_states.read(root, experiment)
    done = [(entry.record, entry.report) for entry in states if entry.record and entry.report]
    index_page.write(root, experiment, done, _cards(root, experiment))
    storage.write(storage.join(root, *REPORT_DONE), _fingerprint(states).encode())


def _is_done(root: str, experiment: Experiment) -> bool:
    states = run_states.read(root, experiment)
    done = storage.join(root, *REPORT_DONE)
    return (
        all(entry.report for entry in states)
        and storage.exists(done)
        and storage.read(done).decode() == _fingerprint(states)
    )


def _fingerprint(states: list[RunState]) -> str:
    """What the report was made from."""
    return digest([entry.record for entry in states], [entry.report for entry in states])


if __name__ == "__main__":
    sys.exit(main())

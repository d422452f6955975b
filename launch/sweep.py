"""ENTRY: `ray job submit … -- python launch/sweep.py --recipe …`: one pass over ratios × seeds,
running what has no record yet

The sweep touches no tensor and keeps no state: what is done is what has a record in the object
root, so the same command after any interruption does only what is missing, and does nothing when
nothing is.
"""

import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from rich.console import Console

from data_prep.config import StreamName
from data_prep.core import storage, telemetry
from data_prep.core.errors import HormesisError
from data_prep.core.records import digest
from data_prep.token_stream.mixture import check_supply
from launch import cli, plan, run_states, status_tables
from launch import experiment as experiments
from launch.experiment import Experiment
from launch.run_states import RunState
from launch.settings_list import settings_list

REPORT_DONE = ("report", "done.txt")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = cli.parser().parse_args(argv)
    telemetry.configure()
    console = telemetry.console()
    try:
        experiment = cli.requested_experiment(arguments)
        if arguments.settings is not None:
            print(settings_list(experiment, arguments.settings))
            return 0
        if arguments.plan:
            console.print(
                plan.render(experiment, plan.device_named(arguments.device), arguments.mfu)
            )
            return 0
        run(
            experiment,
            storage.object_root(arguments.out),
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
            if only != "data":
                _check_resources(root, experiment, evaluate=only != "train")
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
        console.print(status_tables.result_table(experiment, states))
        console.print(f"report: {storage.join(root, 'report', 'index.html')}", soft_wrap=True)
    else:
        console.print(status_tables.progress_table(root, experiment, states))
    telemetry.logger.info("finished in %.0f s", time.monotonic() - started)


def _check_resources(root: str, experiment: Experiment, *, evaluate: bool) -> None:
    """Refuse what the cluster can never run before the streams are built."""
    from launch import resources

    states = run_states.read(root, experiment)
    if not all(entry.record for entry in states):
        resources.n_concurrent_runs(experiment)
    if evaluate and not all(entry.report for entry in states):
        resources.evaluation_cpus(experiment)


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
    from data_prep.build import materialize_mixture

    for run in experiment.runs():
        streams: dict[StreamName, str] = {
            "clean": storage.join(root, run.clean),
            "toxic": storage.join(root, run.toxic),
        }
        to = storage.join(root, "materialized", run.run_id)
        materialize_mixture.materialize(
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
    from launch import cluster, resources

    states = run_states.read(root, experiment)
    to_train = [entry.run for entry in states if not entry.record]
    to_evaluate = [entry.run for entry in states if evaluate and entry.record and not entry.report]
    slots = resources.n_concurrent_runs(experiment) if to_train else 0
    n_cpus = resources.evaluation_cpus(experiment) if evaluate and (to_train or to_evaluate) else 0
    n_pieces = len(to_train) + sum(not entry.report for entry in states if evaluate)
    bar = telemetry.progress(n_pieces, "sweep", "stage")
    training, evaluating = {}, {}
    while to_train or to_evaluate or training or evaluating:
        while to_evaluate:
            run = to_evaluate.pop()
            evaluating[
                cluster.evaluate(root, run.run_id, experiment.eval, n_cpus, experiment.use_gpu)
            ] = run
        while to_train and len(training) < slots:
            run = to_train.pop(0)
            training[cluster.train(root, run, experiment.n_ranks, experiment.use_gpu)] = run
        ended = cluster.first_ended(
            [*training, *evaluating],
            partial(resources.why_stuck, experiment, bool(training), n_cpus if evaluating else 0),
        )
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

    has_report = storage.exists(storage.join(root, "report", "index.html"))
    return data_page.write(root, experiment, _cards(root, experiment), with_comparison=has_report)


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

"""ENTRY: `launch/sweep.py --recipe …`: build, train, evaluate and report what is missing

One pass over ratios × seeds. The sweep computes nothing itself and keeps no state: what is done is
what has a record in the object root. So the same command after any interruption does only what is
missing, and does nothing if nothing is. On a cluster it is a Ray job: `ray job submit … -- python
launch/sweep.py …`.
"""

import argparse
import sys
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

from data_prep.config import StreamName
from data_prep.core import storage, telemetry
from data_prep.core.command import entry_command
from data_prep.core.records import digest
from data_prep.token_stream.mixture import check_supply
from launch import cli, cost_estimate, experiment, run_states, status_tables
from launch.experiment import Experiment
from launch.run_states import RunState
from launch.settings_list import settings_list

REPORT_DONE = ("report", "done.txt")
STREAMS: tuple[StreamName, ...] = ("clean", "toxic")


@entry_command
def main(argv: Sequence[str] | None = None) -> int:
    """The exit status, as core/command.py lists them."""
    arguments = cli.parser().parse_args(argv)
    telemetry.configure()
    requested = cli.requested_experiment(arguments)
    if arguments.settings is not None:
        print(settings_list(requested, arguments.settings))
    elif arguments.plan:
        device = cost_estimate.device_named(arguments.device)
        telemetry.console().print(cost_estimate.render(requested, device, arguments.mfu))
    else:
        _sweep(requested, arguments)
    return 0


def _sweep(sweep: Experiment, arguments: argparse.Namespace) -> None:
    """Complete the sweep, or the stages up to `--only`, and print where it stands."""
    started = time.monotonic()
    root = storage.object_root(arguments.out)
    if _is_done(root, sweep) and not arguments.materialize and not _inputs_differ(root, sweep):
        telemetry.logger.info(
            "nothing to do: every run of this sweep is trained, evaluated and reported"
        )
    else:
        _run_stages(root, sweep, arguments.only, materialize=arguments.materialize)
    _print_state(root, sweep, arguments.only)
    telemetry.logger.info("finished in %.0f s", time.monotonic() - started)


def _run_stages(root: str, sweep: Experiment, only: str | None, *, materialize: bool) -> None:
    from data_prep.core import ray_session
    from data_prep.sources import corpus_reader, input_files

    storage.check_writable(root)
    # refuse a missing corpus, and one file in both, before a cluster starts
    clean, toxic = map(corpus_reader.expand, (sweep.data.clean, sweep.data.toxic))
    input_files.check_distinct(clean, toxic)
    if only not in ("data", "train"):
        _check_evaluation_texts(root, sweep)
    storage.save(sweep, storage.join(root, experiment.FILE_NAME))
    with ray_session.session(sweep.n_ranks):
        if only != "data":
            _check_resources(root, sweep, evaluate=only != "train")
        _build_streams(root, sweep)
        if materialize:
            _materialize(root, sweep)
        if only != "data":
            _train_and_evaluate(root, sweep, evaluate=only != "train")
    if only == "data":
        _write_data_page(root, sweep)
    if only in (None, "report"):
        _write_report(root, sweep)


def _check_evaluation_texts(root: str, sweep: Experiment) -> None:
    """Refuse labels and questions that no evaluation can use, before a model is trained for it."""
    from eval.inputs import text_checks

    if not all(state.report for state in run_states.read(root, sweep)):
        text_checks.check_files(sweep.eval)


def _check_resources(root: str, sweep: Experiment, *, evaluate: bool) -> None:
    """Refuse what the cluster can never run, before the streams are built."""
    from launch.cluster import cluster_fit

    states = run_states.read(root, sweep)
    if not all(state.record for state in states):
        cluster_fit.n_concurrent_runs(sweep)
    if evaluate and not all(state.report for state in states):
        cluster_fit.evaluation_cpus(sweep)


def _build_streams(root: str, sweep: Experiment) -> None:
    """Build both token streams and save the settings of every run.

    Too little text stops here, before any training.
    """
    from data_prep.build import pipeline

    length = sweep.train.sequence_length
    manifests = {name: pipeline.build(sweep.data, name, root) for name in STREAMS}
    n_clean, n_toxic = (manifests[name].split_tokens("train") // length for name in STREAMS)
    for run in sweep.runs():
        check_supply(run.mixture, n_clean, n_toxic, length)
        if run.mixture.n_toxic > n_toxic:
            telemetry.logger.warning(
                "run %s: toxic text is repeated %.3g times (allowed by max_toxic_epochs)",
                run.run_id,
                run.mixture.n_toxic / n_toxic,
            )
        storage.save(run, storage.join(root, "runs", run.run_id, "run.json"))


def _materialize(root: str, sweep: Experiment) -> None:
    """Write each run's sequences as Megatron shards in training order, for other trainers."""
    from data_prep.build import materialize_mixture

    for run in sweep.runs():
        materialize_mixture.materialize(
            run.mixture,
            run.train.sequence_length,
            {name: storage.join(root, getattr(run, name)) for name in STREAMS},
            storage.join(root, "materialized", run.run_id),
            shard_tokens=sweep.data.shard_tokens,
        )


def _train_and_evaluate(root: str, sweep: Experiment, *, evaluate: bool) -> None:
    """Train every run without a record, as many at a time as the cluster holds, and evaluate each
    run as soon as it is trained.
    """
    from launch.cluster import cluster_fit, run_on_ray

    states = run_states.read(root, sweep)
    to_train = deque(state.run for state in states if not state.record)
    to_evaluate = [state.run for state in states if evaluate and state.record and not state.report]
    n_tasks = len(to_train) + sum(evaluate and not state.report for state in states)
    progress = telemetry.progress(n_tasks, "sweep", "task")
    n_slots = cluster_fit.n_concurrent_runs(sweep) if to_train else 0
    n_cpus = cluster_fit.evaluation_cpus(sweep) if evaluate and (to_train or to_evaluate) else 0
    training, evaluating = {}, {}
    while to_train or to_evaluate or training or evaluating:
        for run in to_evaluate:
            task = run_on_ray.start_evaluation(root, run.run_id, sweep.eval, n_cpus, sweep.use_gpu)
            evaluating[task] = run
        to_evaluate = []
        while to_train and len(training) < n_slots:
            run = to_train.popleft()
            training[run_on_ray.start_training(root, run, sweep.n_ranks, sweep.use_gpu)] = run
        why_stuck = partial(
            cluster_fit.why_stuck, sweep, bool(training), n_cpus if evaluating else 0
        )
        finished = run_on_ray.wait_for_first([*training, *evaluating], why_stuck)
        progress.update(1)
        if finished in training:
            run = training.pop(finished)
            telemetry.logger.info("trained %s", run.run_id)
            to_evaluate = [run] if evaluate else []
        else:
            telemetry.logger.info("evaluated %s", evaluating.pop(finished).run_id)
    progress.close()


def _data_cards(root: str, sweep: Experiment) -> dict[str, Any]:
    """The data card of each stream; the streams have been built."""
    from data_prep.token_stream import data_card

    run = sweep.runs()[0]
    return {name: data_card.load(storage.join(root, getattr(run, name))) for name in STREAMS}


def _write_data_page(root: str, sweep: Experiment) -> None:
    from launch.report import data_page

    has_report = storage.exists(storage.join(root, "report", "index.html"))
    cards = _data_cards(root, sweep)
    uri = data_page.write(root, sweep, cards, with_comparison=has_report)
    telemetry.console().print(f"data card: {uri}", soft_wrap=True)


def _write_report(root: str, sweep: Experiment) -> None:
    from launch.report import index_page

    states = run_states.read(root, sweep)
    done = [(state.record, state.report) for state in states if state.record and state.report]
    index_page.write(root, sweep, done, _data_cards(root, sweep))
    storage.write(storage.join(root, *REPORT_DONE), _digest_of_records(states).encode())


def _is_done(root: str, sweep: Experiment) -> bool:
    """Whether every run is evaluated and the report was made from these records."""
    states = run_states.read(root, sweep)
    if not all(state.report for state in states):
        return False
    uri = storage.join(root, *REPORT_DONE)
    return storage.exists(uri) and storage.read(uri).decode() == _digest_of_records(states)


def _inputs_differ(root: str, sweep: Experiment) -> bool:
    """Whether a finished sweep must be compared with its input files."""
    from data_prep.build import stream_inputs

    return sweep.data.verify_inputs or stream_inputs.may_have_changed(sweep.data, root)


def _digest_of_records(states: list[RunState]) -> str:
    return digest([state.record for state in states], [state.report for state in states])


def _print_state(root: str, sweep: Experiment, only: str | None) -> None:
    """Print the results of a complete sweep, else the progress of its runs."""
    console = telemetry.console()
    states = run_states.read(root, sweep)
    if only is None or all(state.report for state in states):
        console.print(status_tables.result_table(sweep, states))
        console.print(f"report: {storage.join(root, 'report', 'index.html')}", soft_wrap=True)
    else:
        console.print(status_tables.progress_table(root, sweep, states))


if __name__ == "__main__":
    sys.exit(main())

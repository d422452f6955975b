"""ENTRY: `launch/sweep.py --recipe …`: build, train, evaluate and report what is missing

One pass over ratios × seeds. The sweep computes nothing itself and keeps no state: what is done is
what has a record in the object root. So the same command after any interruption does only what is
missing, and does nothing if nothing is. On a cluster it is a Ray job: `ray job submit … -- python
launch/sweep.py …`.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

from data_prep.config import StreamName
from data_prep.core import storage, telemetry
from data_prep.core.command import entry_command
from data_prep.core.errors import HormesisError
from data_prep.core.records import digest
from data_prep.token_stream.mixture import check_supply
from launch import cli, cost_estimate, experiment, run_states, status_tables
from launch.experiment import Experiment
from launch.list_settings import settings_list
from launch.run_states import RunState

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
        mfu = cost_estimate.checked_mfu(arguments.mfu)
        telemetry.console().print(cost_estimate.render(requested, device, mfu))
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
    from data_prep.cleaning import language
    from data_prep.core import ray_session
    from data_prep.sources import corpus_reader, input_files

    storage.check_writable(root)
    # refuse a missing corpus, one file in both, and an unknown language before a cluster starts
    language.check_codes(sweep.data.cleaning.languages)
    clean, toxic = map(corpus_reader.expand, (sweep.data.clean, sweep.data.toxic))
    input_files.check_distinct(clean, toxic)
    with ray_session.session(sweep.n_ranks):
        if only != "data":
            _check_before_building(root, sweep, evaluate=only != "train")
        storage.save(sweep, storage.join(root, experiment.FILE_NAME))
        _build_streams(root, sweep)
        if materialize:
            _materialize(root, sweep)
        if only != "data":
            _train_and_evaluate(root, sweep, only)
    if only == "data":
        _write_data_page(root, sweep)
    if only in (None, "report"):
        _write_report(root, sweep)


def _check_before_building(root: str, sweep: Experiment, *, evaluate: bool) -> None:
    """Refuse what the cluster can never run, and what a training or an evaluation cannot read."""
    from launch.cluster import cluster_fit, run_on_ray

    states = run_states.read(root, sweep)
    is_trained = all(state.record for state in states)
    if not is_trained:
        cluster_fit.n_concurrent_runs(sweep)
    # a run that has a checkpoint starts from that
    if sweep.train.init_from and any(not state.checkpoint_step for state in states):
        run_on_ray.check_initial_weights(sweep.train)
    if evaluate and not all(state.report for state in states):
        cluster_fit.evaluation_cpus(sweep)
        if not is_trained:  # otherwise an evaluation is next, which begins like this check
            run_on_ray.check_evaluation(root, sweep.eval)


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


def _train_and_evaluate(root: str, sweep: Experiment, only: str | None) -> None:
    """Complete all runs; if some fail, complete and report the others, then raise HormesisError."""
    from launch.cluster.train_and_evaluate import train_and_evaluate

    failures = train_and_evaluate(root, sweep, evaluate=only != "train")
    if not failures:
        return
    if only in (None, "report") and any(state.report for state in run_states.read(root, sweep)):
        _write_report(root, sweep)
    raise HormesisError(
        f"{len(failures)} of this sweep's trainings and evaluations failed: "
        f"{'; '.join(map(str, failures))}. The others are done; mend the causes, then run the same "
        "command again: it does what is missing"
    )


def _data_cards(root: str, sweep: Experiment) -> dict[str, Any]:
    """The data card of each stream; the streams have been built."""
    from data_prep.cards import data_card

    run = sweep.runs()[0]
    uris: dict[StreamName, str] = {"clean": storage.join(root, run.clean)}
    uris["toxic"] = storage.join(root, run.toxic)
    return {str(name): card for name, card in data_card.load_all(uris).items()}


def _write_data_page(root: str, sweep: Experiment) -> None:
    from data_prep.cards.stream_table import stream_table
    from launch.report import data_page

    has_report = storage.exists(storage.join(root, "report", "index.html"))
    cards = _data_cards(root, sweep)
    telemetry.console().print(stream_table(list(cards.values())))
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

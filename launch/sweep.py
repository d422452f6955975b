"""ENTRY: `launch/sweep.py --recipe …`: build, train, evaluate and report what is missing

One pass over arms × ratios × seeds. The sweep computes nothing itself and keeps no state: what is
done is what has a record in the object root. So the same command after any interruption does only
what is missing, and does nothing if nothing is. On a cluster it is a Ray job: `ray job submit … --
python launch/sweep.py …`.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from data_prep.build import stream_paths
from data_prep.config import StreamName
from data_prep.core import storage, telemetry
from data_prep.core.command import entry_command
from data_prep.core.errors import ConfigurationError, HormesisError
from data_prep.token_stream.mixture import check_supply
from eval.inputs import named_texts
from launch import cli, experiment, run_states, status_tables
from launch.experiment import Experiment
from launch.list_settings import settings_list
from launch.plan import cost_estimate
from training.config import RunConfig

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
    from launch.report import report_stage

    started = time.monotonic()
    root = storage.object_root(arguments.out)
    is_done = report_stage.is_written(root, sweep)
    if is_done and not arguments.materialize and not _inputs_differ(root, sweep):
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
    from launch.report import report_stage

    storage.check_writable(root)
    # refuse a gated data set, a missing corpus, one file in both, and an unknown language before a
    # cluster starts
    is_evaluated = only not in ("data", "train")
    used = {"data": sweep.data} | ({"eval": sweep.eval} if is_evaluated else {})
    named_texts.check_hub_access(used)
    language.check_codes(sweep.data.cleaning.languages)
    clean, toxic = map(corpus_reader.expand, (sweep.data.clean, sweep.data.toxic))
    input_files.check_distinct(clean, toxic)
    with ray_session.session(sweep.n_ranks):
        if only != "data":
            _check_before_building(root, sweep, evaluate=only != "train")
        storage.save(sweep, storage.join(root, experiment.FILE_NAME))
        _build_streams(root, sweep)
        if is_evaluated:
            _check_conditions(root, sweep)
        if materialize:
            _materialize(root, sweep)
        if is_evaluated:
            _measure_overlap(root, sweep)
        if only != "data":
            _train_and_evaluate(root, sweep, only)
    if only == "data":
        report_stage.write_data_page(root, sweep)
    if only in (None, "report"):
        report_stage.write(root, sweep)


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
    """Build the token streams of all arms and save the settings of every run.

    Too little text stops here, before any training.
    """
    from data_prep.build import pipeline

    _check_annotations(root, sweep)
    length = sweep.train.sequence_length
    supply: dict[str, int] = {}  # sequences to train on, by the stream's folder
    for data in sweep.stream_settings().values():
        for name in STREAMS:
            built = pipeline.build(data, name, root)
            supply[stream_paths.stream_uri(data, name)] = built.split_tokens("train") // length
    for run in sweep.runs():
        _check_supply(run, supply[run.clean], supply[run.toxic])
        storage.save(run, storage.join(root, "runs", run.run_id, "run.json"))


def _check_annotations(root: str, sweep: Experiment) -> None:
    """Load the scorer of an arm whose streams are not built yet, before any stream is."""
    from data_prep.cleaning import annotate_toxicity
    from data_prep.core import ray_tasks

    built = run_states.built_streams(root, sweep)
    for arm in sweep.annotated_arms:
        data = sweep.data_of(arm)
        if {stream_paths.stream_uri(data, name) for name in STREAMS} <= built:
            continue
        title = f"load the scorer of arm {arm}"
        task = ray_tasks.RayTask(title, annotate_toxicity.identity, (data.annotation,), 1)
        list(ray_tasks.run([task], title, "task"))


def _check_supply(run: RunConfig, n_clean: int, n_toxic: int) -> None:
    """Refuse a run whose streams are too short; tell of toxic text that is repeated."""
    try:
        check_supply(run.mixture, n_clean, n_toxic, run.train.sequence_length)
    except ConfigurationError as error:
        if run.arm != "matched":
            raise
        raise ConfigurationError(
            f"run {run.run_id}: {error}; or leave matched out of arms"
        ) from error
    if run.mixture.n_toxic > n_toxic:
        telemetry.logger.warning(
            "run %s: toxic text is repeated %.3g times (allowed by max_toxic_epochs)",
            run.run_id,
            run.mixture.n_toxic / n_toxic,
        )


def _measure_overlap(root: str, sweep: Experiment) -> None:
    """Measure in how far the training text has texts of the evaluation that were not looked for.

    Arms have the same documents, so the plain streams stand for all. The report says what is not
    measured: an evaluation does not depend on it.
    """
    from data_prep.overlap import measure_overlap

    try:
        measure_overlap.measure(sweep.data, root, named_texts.evaluation_sets(sweep.eval))
    except HormesisError as error:
        telemetry.logger.warning("the overlap of evaluation texts is not measured: %s", error)


def _check_conditions(root: str, sweep: Experiment) -> None:
    """Refuse a text before every prompt that is too long, now that the tokenizer is made."""
    from data_prep.token_stream import tokenizer
    from eval.inputs import condition_text

    for state in run_states.read(root, sweep):
        run = state.run
        if state.report:
            continue
        of_run = tokenizer.load(storage.join(root, run.tokenizer), sweep.data.tokenizer)
        for name, condition in sweep.eval.conditions.items():
            if run.control_text or not condition.control_text:
                text = condition_text.text_before_prompts(condition, run.control_text)
                what = f"condition {name} of arm {run.arm}"
                condition_text.encode(text, of_run, run.train.sequence_length, what)


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
    from launch.report import report_stage

    has_report = only in (None, "report")
    with report_stage.InterimReports(root, sweep) as interim:
        request = interim.request if has_report else None
        failures = train_and_evaluate(root, sweep, evaluate=only != "train", after_one=request)
    if not failures:
        return
    if has_report and report_stage.can_be_written(root, sweep):
        report_stage.write(root, sweep)
    raise HormesisError(
        f"{len(failures)} of this sweep's trainings and evaluations failed: "
        f"{'; '.join(map(str, failures))}. The others are done; mend the causes, then run the same "
        "command again: it does what is missing"
    )


def _inputs_differ(root: str, sweep: Experiment) -> bool:
    """Whether a finished sweep must be compared with its input files."""
    from data_prep.build import stream_inputs

    return any(
        data.verify_inputs or stream_inputs.may_have_changed(data, root)
        for data in sweep.stream_settings().values()
    )


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

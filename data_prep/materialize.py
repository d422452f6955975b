"""ENTRY (Ray): write a mixture as Megatron shards in training order, for other trainers

    python data_prep/materialize.py --out URI --run RUN_ID [--to URI]
    python data_prep/materialize.py --out URI --clean STREAM --toxic STREAM --ratio R --tokens N
                                    --sequence-length T --batch B [--seed S] --to URI

RUN_ID is a run that launch/sweep.py planned in --out. STREAM is the folder of a token stream, a URI
or relative to --out.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, get_args

from typing_extensions import TypedDict

from data_prep.build import materialize_mixture
from data_prep.config import StreamName
from data_prep.core import errors, ray_session, records, storage, telemetry
from data_prep.core.command import entry_command
from data_prep.core.records import RelativePath, name_fault
from data_prep.core.settings import Count
from data_prep.token_stream.mixture import Budget, Mixture, sequences_for

REQUIRED_WITHOUT_RUN = ("clean", "toxic", "ratio", "tokens", "sequence_length", "batch", "to")
DEFAULTS = {"budget": "clean_fixed", "seed": 0, "max_toxic_epochs": 1.0}
MAX_COUNT = 1 << 63
OF_MIXTURE = (*REQUIRED_WITHOUT_RUN[:-1], *DEFAULTS)  # a planned run has its own


class _Train(TypedDict):
    sequence_length: Count


class _PlannedRun(TypedDict):
    """The fields of a planned run that are read here."""

    mixture: Mixture
    clean: RelativePath
    toxic: RelativePath
    train: _Train


class MixturePlan(NamedTuple):
    mixture: Mixture
    sequence_length: int
    streams: dict[StreamName, str]


@entry_command
def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    telemetry.configure()
    root = storage.object_root(options.out)
    plan = _plan_of_options(options) if options.run is None else _plan_of_run(root, options)
    to = storage.join(root, "materialized", options.run or "")
    if options.to:
        to = storage.object_root(options.to)
    streams: dict[StreamName, str] = {
        name: uri if "://" in uri else storage.join(root, uri) for name, uri in plan.streams.items()
    }
    storage.check_writable(to)
    with ray_session.session(n_cpus=1):
        written = materialize_mixture.materialize(plan.mixture, plan.sequence_length, streams, to)
    n_toxic = plan.mixture.n_toxic
    epochs = n_toxic / written.n_distinct_toxic if written.n_distinct_toxic else 1.0
    telemetry.console().print(
        f"{plan.mixture.n_clean:,} clean + {n_toxic:,} toxic sequences (each toxic one "
        f"{epochs:.3g} times), {written.n_tokens:,} tokens, {len(written.train)} shards: {to}",
        soft_wrap=True,
    )
    return 0


def _plan_of_run(root: str, options: argparse.Namespace) -> MixturePlan:
    """The mixture of a planned run; training/config.py owns the record it is read from."""
    run_id = options.run
    if given := _flags(name for name in OF_MIXTURE if getattr(options, name) is not None):
        raise errors.ConfigurationError(
            f"{given} cannot be used with --run, whose plan says it; leave {given} out, or leave "
            "--run out and give all flags of a mixture"
        )
    if fault := name_fault(run_id):
        raise errors.ConfigurationError(
            f"--run is {run_id!r} and {fault}; launch/sweep.py --plan lists the ids of the runs"
        )
    uri = storage.join(root, "runs", run_id, "run.json")
    if not storage.exists(uri):
        others = storage.other_folders(storage.join(root, "runs"), "run.json")
        raise errors.ArtefactMissing(
            f"{uri}: no run with this id is planned ({others}); launch/sweep.py --only data plans "
            "the runs, --plan lists their ids"
        )
    run = records.from_json(_PlannedRun, storage.read(uri), uri)
    streams: dict[StreamName, str] = {"clean": run["clean"], "toxic": run["toxic"]}
    return MixturePlan(run["mixture"], run["train"]["sequence_length"], streams)


def _plan_of_options(options: argparse.Namespace) -> MixturePlan:
    missing = _flags(name for name in REQUIRED_WITHOUT_RUN if getattr(options, name) is None)
    if missing:
        raise errors.ConfigurationError(
            f"{missing} is missing; give --run RUN_ID, or all of these flags"
        )
    for name, value in DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.tokens < options.sequence_length:
        raise errors.ConfigurationError(
            f"--tokens {options.tokens} is less than one sequence of --sequence-length "
            f"{options.sequence_length}; raise --tokens to {options.sequence_length} at least"
        )
    n_clean, n_toxic = sequences_for(
        options.tokens, options.ratio, options.sequence_length, options.budget
    )
    if n_clean < 1:
        raise errors.ConfigurationError(
            f"--tokens {options.tokens} at --ratio {options.ratio} leave no clean sequence of "
            f"{options.sequence_length} tokens; raise --tokens or lower --ratio"
        )
    mixture = Mixture(
        n_clean=n_clean,
        n_toxic=n_toxic,
        batch_size=options.batch,
        seed=options.seed,
        max_toxic_epochs=options.max_toxic_epochs,
    )
    streams: dict[StreamName, str] = {"clean": options.clean, "toxic": options.toxic}
    return MixturePlan(mixture, options.sequence_length, streams)


def _flags(names: Iterable[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def _number(
    convert: Callable[[str], float], is_allowed: Callable[[float], bool], expected: str
) -> Callable[[str], float]:
    """A type of argparse: a number in a range, with what is expected in its error."""

    def parse(text: str) -> float:
        try:
            value = convert(text)
        except ValueError:
            value = math.nan
        if not is_allowed(value):
            raise argparse.ArgumentTypeError(f"got {text!r}; expected {expected}")
        return value

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="materialize.py", description="Write a mixture as Megatron shards in training order."
    )
    add = parser.add_argument
    count = _number(int, lambda n: 1 <= n < MAX_COUNT, "a whole number >= 1 (and below 2^63)")
    ratio = _number(float, lambda r: 0 <= r < 1, "a number in [0, 1)")
    epochs = _number(float, lambda x: 1 <= x < math.inf, "a number >= 1")
    seed = _number(int, lambda n: n < math.inf, "a whole number")
    add("--out", required=True, metavar="URI", help="object root: a folder or s3://bucket/prefix")
    add("--to", metavar="URI", help="folder of the shards (OUT/materialized/RUN_ID)")
    add("--run", metavar="RUN_ID", help="a planned run, in place of all options below")
    for name in get_args(StreamName):
        add(f"--{name}", metavar="STREAM", help=f"folder of the {name} token stream")
    add("--ratio", type=ratio, metavar="R", help="toxic tokens / all tokens, in [0, 1)")
    add("--tokens", type=count, metavar="N", help="budget in tokens")
    add(
        "--budget",
        choices=get_args(Budget),
        help="the tokens that --tokens counts (clean_fixed)",
    )
    add("--sequence-length", type=count, metavar="T", help="tokens per sequence")
    add("--batch", type=count, metavar="B", help="sequences per global batch")
    add("--seed", type=seed, metavar="S", help="seed of the order in a batch (0)")
    add(
        "--max-toxic-epochs",
        type=epochs,
        metavar="X",
        help="passes over the toxic stream that are allowed (1)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

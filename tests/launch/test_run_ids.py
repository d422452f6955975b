"""Nothing of an evaluation names a run or a stream, so no change of it trains anything again."""

import json
from collections.abc import Iterator
from functools import reduce
from typing import Any, Literal, get_args, get_origin

import pytest

from data_prep.core.errors import ConfigurationError
from data_prep.core.records import to_dict
from data_prep.core.settings import describe, example, field_types
from launch import cli
from launch.experiment import Experiment
from launch.recipes import embedded, registry

LAPTOP = registry.named("laptop")
# What settings with a form of their own take, beside the example of their type.
TEXTS = ("other.jsonl#label=x", "mean", "classifier:a/b", "lexicon:w.csv", "run:toxic-0.00-s0-1")
TEXTS += ("last", "pairs", "verdict", "held_out", "toxigen", "toxigen-rule")  # names of probe sets
TEXTS += ("toxic",)  # a held-out text


def requested(recipe: str, *words: str) -> Experiment:
    flags = ["--recipe", recipe, *(("--set", *words) if words else ())]
    return cli.requested_experiment(cli.parser().parse_args(flags))


def ids(sweep: Experiment) -> list[tuple[str, str, str, str]]:
    return [(run.run_id, run.clean, run.toxic, run.tokenizer) for run in sweep.runs()]


def value_at(sweep: Experiment, path: str) -> Any:
    return reduce(getattr, path.split("."), sweep)


def other_values(sweep: Experiment, path: str) -> Iterator[Any]:
    """Values, as plain JSON data, of which at least one differs and is valid."""
    group, _, name = path.rpartition(".")
    hint = field_types(type(value_at(sweep, group)))[name]
    now = to_dict(value_at(sweep, path))
    bare = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    if get_origin(bare) is Literal:
        yield from get_args(bare)
    elif isinstance(now, bool):
        yield not now
    elif isinstance(now, int | float):
        yield from (now + 1, now * 2, now / 2)
    elif isinstance(now, str):
        yield from TEXTS
    elif isinstance(now, list):
        words = [w for w in get_args(get_args(bare)[0]) if isinstance(w, str)]
        options = [*TEXTS, *words, *(0.5, 7.0)]
        yield from ([*now, option] for option in options)
    elif isinstance(now, dict):
        options = [*now.values(), *TEXTS, {}, {"prefix": "Another. "}]
        yield from ({**now, "another": option} for option in options)
        yield {}
    yield example(hint)


EVALUATION = [setting.path for setting in describe(LAPTOP, "eval.")]


@pytest.mark.parametrize("path", EVALUATION)
@pytest.mark.parametrize("recipe", ["laptop", "paper"])
def test_no_evaluation_setting_is_in_a_run_or_stream_id(recipe, path):
    before = requested(recipe)
    changed = []
    for value in other_values(before, path):
        try:
            after = requested(recipe, f"{path}={json.dumps(value)}")
        except ConfigurationError:
            continue
        if value_at(after, path) != value_at(before, path):
            changed.append(value)
            assert ids(after) == ids(before), (path, value)
    assert changed, f"no other valid value of {path} is known here: add one"


def test_what_is_looked_for_in_training_text_names_streams_and_runs():
    before = requested("laptop")
    after = requested("laptop", 'data.decontamination.uris=["other.jsonl"]')
    assert not {name for run in ids(before) for name in run[:3]} & {
        name for run in ids(after) for name in run[:3]
    }


def test_the_embedded_probes_and_prompts_are_looked_for_by_default():
    looked_for = requested("laptop").data.decontamination.uris
    assert looked_for == embedded.LOOKED_FOR
    named = {*embedded.EMBEDDED_PROBES.values(), embedded.EMBEDDED_PROMPTS}
    assert named < set(looked_for) and not any(uri.startswith("pairs:") for uri in looked_for)


def test_other_corpora_are_not_searched_for_the_embedded_texts():
    flags = ["--clean", "/a.jsonl", "--toxic", "/b.jsonl"]
    sweep = cli.requested_experiment(cli.parser().parse_args(flags))
    assert sweep.data.decontamination.uris == ()

"""The overlap is a side measurement: a sweep goes on without it."""

import logging

import pytest

from data_prep.core.errors import StorageError
from data_prep.overlap import measure_overlap
from launch import sweep
from launch.recipes import registry


@pytest.mark.parametrize("fails", [True, False])
def test_a_search_that_fails_is_told_and_stops_nothing(monkeypatch, caplog, fails):
    asked = []

    def measure(config, root, sets):
        asked.extend(each.setting for each in sets)
        if fails:
            raise StorageError("s3://b/prompts.jsonl: no answer")

    monkeypatch.setattr(measure_overlap, "measure", measure)
    with caplog.at_level(logging.WARNING):
        sweep._measure_overlap("/nowhere", registry.named("laptop"))
    assert asked == [
        "eval.probes.pairs",
        "eval.probes.verdict",
        "eval.prompts.openings",
        "eval.benchmarks.verdict",
        "eval.benchmarks.words",
    ]
    told = "the overlap of evaluation texts is not measured: s3://b/prompts.jsonl: no answer"
    assert (told in caplog.text) is fails

"""A probe set may come with a file of test rows; `#group=` names the groups of one set."""

import json

import pytest

from data_prep.core.errors import ConfigurationError
from eval.config import EvalConfig, ProbingConfig
from eval.inputs.prompts import HeldOutSource
from eval.pipeline import evaluation_inputs

NOTHING_HELD_OUT = HeldOutSource(lambda stream, limit: [], lambda ids: "")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def labelled(n, *, first=0, **more):
    return [{"text": f"row {i}", "label": i % 2, **more} for i in range(first, first + n)]


@pytest.fixture
def read(tmp_path):
    prompts = write(tmp_path / "prompts.jsonl", [{"text": "a prompt"}])

    def read(uri, **probing):
        config = EvalConfig(
            probes={"own": uri}, prompts={"one": prompts}, probing=ProbingConfig(**probing)
        )
        return evaluation_inputs.read(config, NOTHING_HELD_OUT)

    return read


def test_rows_of_the_test_file_are_tested_and_never_trained_on(read, tmp_path):
    own = write(tmp_path / "own.jsonl", labelled(50))
    test = write(tmp_path / "test.jsonl", labelled(20, first=44))
    inputs = read(own, test_rows={"own": test})
    rows, _, split, _ = inputs.probe_sets["own"]
    texts = {part: {rows[i].text for i in of_part} for part, of_part in split._asdict().items()}
    assert texts["test"] == {f"row {i}" for i in range(44, 64)}
    assert texts["train"] | texts["validation"] == {f"row {i}" for i in range(44)}
    (summary,) = (s for s in inputs.summaries if s.setting == "eval.probes.own")
    assert summary.left_out == {"also a test row": 6}


@pytest.mark.parametrize(
    ("test_rows", "fault"),
    [
        (
            {"other": "x.jsonl"},
            r"test_rows names the probe set 'other'; expected .*own",
        ),
        ({"own": "missing.jsonl"}, r"missing.jsonl matches no file"),
        ({"own": "ONE_CLASS"}, r"eval.probing.test_rows.own .*0 of its 3 rows are toxic"),
    ],
)
def test_test_rows_that_cannot_be_meant_are_refused(read, tmp_path, test_rows, fault):
    own = write(tmp_path / "own.jsonl", labelled(50))
    one = write(tmp_path / "one.jsonl", [{"text": f"t{i}", "label": 0} for i in range(3)])
    with pytest.raises(ConfigurationError, match=fault):
        read(
            own, test_rows={name: uri.replace("ONE_CLASS", one) for name, uri in test_rows.items()}
        )


def test_a_set_may_name_a_group_field_of_its_own(read, tmp_path):
    rows = [{"text": f"row {i}", "label": i % 2, "user": f"u{i // 5}"} for i in range(60)]
    own = write(tmp_path / "own.jsonl", rows)
    inputs = read(f"{own}#group=user")
    found, _, split, _ = inputs.probe_sets["own"]
    users = [{found[i].group for i in part} for part in split]
    assert len(set.union(*users)) == 12 == sum(map(len, users))
    with pytest.raises(ConfigurationError, match="there is no field 'team' to group rows by"):
        read(f"{own}#group=team")

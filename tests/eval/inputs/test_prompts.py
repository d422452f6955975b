from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.core.settings import evolve
from eval.config import EvalConfig, GenerationConfig, ProbingConfig, ScoringConfig
from eval.inputs import prompts

HELD_OUT = EvalConfig(
    probing=ProbingConfig(rows="held_out", n_rows=40),
    generation=GenerationConfig(prompts="held_out", n_prompts=10),
    scoring=ScoringConfig(scorer="profanity"),
)


def documents(n=100, length=60):
    """Streams of n documents each; token t of document d of the clean stream is d·1000 + t, of the
    toxic one negative.
    """

    def read(stream, limit):
        sign = 1 if stream == "clean" else -1
        return [sign * (1000 * d + np.arange(1, length + 1)) for d in range(1, min(n, limit) + 1)]

    return read


def decode(ids):
    return " ".join(map(str, ids))


def choose(config=HELD_OUT, read=None):
    return prompts.choose(config, read or documents(), decode)


def numbers(text):
    return [int(word) for word in text.split()]


def document_of(text):
    return np.sign(numbers(text)[0]) * (abs(numbers(text)[0]) // 1000)


def test_held_out_rows_are_the_beginnings_of_documents_half_from_each_stream():
    rows = choose()
    assert sorted(row.label for row in rows.probes) == [0] * 20 + [1] * 20
    assert all((document_of(row.text) < 0) == row.label for row in rows.probes)
    assert (
        sum(document_of(prompt.text) < 0 for prompt in rows.prompts) == 5
        and len(rows.prompts) == 10
    )
    for texts, (low, high) in ((rows.probes, (16, 32)), (rows.prompts, (8, 12))):
        assert all(
            abs(numbers(row.text)[0]) % 1000 == 1 and low <= len(numbers(row.text)) <= high
            for row in texts
        )
        assert len({len(numbers(row.text)) for row in texts}) > 1
    assert "stream of origin" in rows.label_rule


def test_no_document_gives_both_a_probe_and_a_prompt():
    rows = choose()
    used = [document_of(row.text) for row in (*rows.probes, *rows.prompts)]
    assert len(used) == len(set(used)) == 50


def test_when_held_out_documents_are_few_all_are_used_and_both_kinds_shrink_alike():
    rows = choose(read=documents(n=10))
    assert (len(rows.probes), len(rows.prompts)) == (16, 4)


def test_short_documents_are_passed_over_for_later_ones():
    def read(stream, limit):
        long = documents(200)(stream, limit)
        return [ids[: 60 if abs(ids[0]) // 1000 % 3 == 0 else 20] for ids in long]

    rows = choose(read=read)
    assert len(rows.probes) == 40 and all(document_of(row.text) % 3 == 0 for row in rows.probes)


def test_without_held_out_documents_the_error_says_what_to_do():
    with pytest.raises(ConfigurationError, match=r"gives no prompt .* raise data.held_out_ratio"):
        choose(read=documents(length=20))


def test_labelled_rows_come_from_a_file_with_the_rule_named(table):
    uri = table([{"generation": f"text {i}", "score": 1 + i % 5} for i in range(30)])
    config = evolve(
        HELD_OUT,
        {"probing.rows": f"{uri}#text=generation&label=score", "probing.label_threshold": 2.5},
    )
    rows = choose(config)
    assert {row.text: row.label for row in rows.probes} == {
        f"text {i}": int(i % 5 >= 2) for i in range(30)
    }
    assert rows.label_rule == "score ≥ 2.5"


def test_a_set_carries_its_own_rule(table):
    uri = table(
        [{"text": f"text {i}", "toxicity_ai": 1 + i % 5, "toxicity_human": 3.0} for i in range(30)]
    )
    rows = choose(
        evolve(HELD_OUT, {"probing.rows": f"{uri}#label=toxigen", "probing.label_threshold": 9.0})
    )
    assert {row.text: row.label for row in rows.probes} == {
        f"text {i}": int(i % 5 >= 2) for i in range(30)
    }
    assert rows.label_rule == "toxigen: toxicity_ai + toxicity_human > 5.5"


def test_rows_are_grouped_by_the_field_asked_for(table):
    uri = table([{"text": f"text {i}", "label": i % 2, "pair": i // 2} for i in range(30)])
    rows = choose(evolve(HELD_OUT, {"probing.rows": uri, "probing.group_field": "pair"})).probes
    assert {row.text: row.group for row in rows} == {f"text {i}": str(i // 2) for i in range(30)}
    assert len({row.group for row in choose(evolve(HELD_OUT, {"probing.rows": uri})).probes}) == 30
    few = choose(
        evolve(HELD_OUT, {"probing.rows": uri, "probing.group_field": "pair", "probing.n_rows": 20})
    ).probes
    assert (len(few), len({row.group for row in few})) == (20, 10)
    with pytest.raises(
        ConfigurationError, match=r"no field 'twin' to group rows by, the row has label, pair"
    ):
        choose(evolve(HELD_OUT, {"probing.rows": uri, "probing.group_field": "twin"}))


@pytest.mark.parametrize(
    "values", [(True, False), (1, 0), ("1", "0"), ("true", "False"), (0.9, 0.1)]
)
def test_a_label_may_be_a_truth_value_a_number_or_either_as_text(table, values):
    uri = table([{"text": f"text {i}", "label": values[i % 2]} for i in range(20)])
    rows = choose(evolve(HELD_OUT, {"probing.rows": uri}))
    assert {row.text: row.label for row in rows.probes} == {
        f"text {i}": 1 - i % 2 for i in range(20)
    }
    assert rows.label_rule == "label ≥ 0.5"


def test_a_label_that_is_no_number_is_refused_with_its_place(table):
    uri = table([{"text": "a", "label": 1}, {"text": "b", "label": "rude"}])
    with pytest.raises(
        ConfigurationError, match=r"rows.jsonl row 1: the label in field 'label' is 'rude'"
    ):
        choose(evolve(HELD_OUT, {"probing.rows": uri}))


def test_the_sample_of_a_file_does_not_depend_on_its_order_but_on_the_seed(table):
    lines = [{"text": f"text {i}", "label": i % 2} for i in range(100)]
    config = evolve(HELD_OUT, {"probing.rows": table(lines)})
    chosen = choose(config).probes
    table(lines[::-1])
    assert choose(config).probes == chosen and len(chosen) == 40
    assert choose(replace(config, seed=1)).probes != chosen


def test_a_text_twice_in_a_file_is_one_row_and_no_probe_row_is_a_prompt(table):
    uri = table([{"text": f"text {i % 50}", "label": int(i < 50)} for i in range(100)])
    config = evolve(HELD_OUT, {"probing.rows": uri, "generation.prompts": uri})
    rows = choose(config)
    assert {row.label for row in rows.probes} == {1}  # the first of two labels stands
    assert len({row.id for row in rows.probes}) == 40 and len(rows.prompts) == 10
    assert not {row.text for row in rows.probes} & {prompt.text for prompt in rows.prompts}


def prompts_of(uri, **settings):
    return {
        prompt.text
        for prompt in choose(evolve(HELD_OUT, {"generation.prompts": uri, **settings})).prompts
    }


def test_prompts_reach_into_objects_and_empty_ones_are_passed_over(table):
    uri = table(
        [
            {"prompt": {"text": text, "toxicity": 0.5}, "continuation": {"text": "no"}}
            for text in ("So the", "", " ", "Then a")
        ]
    )
    assert prompts_of(f"{uri}#text=prompt.text") == {"So the", "Then a"}
    with pytest.raises(
        ConfigurationError, match=r"rows.jsonl#text=prompt.text' gives no prompt \(0 texts"
    ):
        prompts_of(f"{table([{'prompt': {'text': ' '}}])}#text=prompt.text")


def test_a_list_of_examples_gets_its_lines_and_other_text_keeps_its_backslashes(table):
    listed, plain = r"- tea is hot\n- ice is cold\n-", r"the path C:\new\n-folder"
    assert prompts_of(table([{"text": listed}, {"text": plain}])) == {
        "- tea is hot\n- ice is cold\n-",
        plain,
    }


def test_prompts_come_from_the_hub_as_from_a_file(table, tmp_path):
    pytest.importorskip("datasets", reason="the extra hub is not installed")
    table([{"prompt": {"text": f"So the {i}", "toxicity": 0.5}} for i in range(5)])
    assert prompts_of(f"hub:{tmp_path}?split=train#text=prompt.text") == {
        f"So the {i}" for i in range(5)
    }


def test_bytes_that_are_no_text_are_named_with_their_place(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "fine"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(
        ArtefactCorrupt,
        match=r"rows.jsonl: 1 of the first 2 rows cannot be used: .*rows.jsonl:2 is not JSON",
    ):
        prompts_of(str(path))


def test_the_real_sets_give_the_paper_its_prompts():
    data = Path(__file__).parents[4] / "shared" / "data"
    if not data.is_dir():
        pytest.skip("the real sets are not beside this checkout")
    toxigen = prompts_of(f"{data}/toxigen_prompts/toxigen_prompts.jsonl.gz", n_prompts=3000)
    assert (
        len(toxigen) == 3000
        and sum(text.startswith("- ") and text.count("\n- ") > 3 for text in toxigen) > 2800
    )
    assert not any("\\n" in text for text in toxigen if text.startswith("- "))
    rtp = prompts_of(f"{data}/rtp_decodingtrust/*.jsonl.gz#text=prompt.text", n_prompts=3000)
    assert len(rtp) == 519 + 586

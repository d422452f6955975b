from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.core.settings import evolve
from eval.config import EvalConfig
from eval.inputs.labelled_rows import LabelledSet
from eval.inputs.prompts import HeldOutSource, PromptSet, choose_texts


def streams(n=100, length=60):
    """Streams of n documents each; token t of document d of the clean stream is d·1000 + t, of the
    toxic one negative.
    """

    def read_documents(stream, limit):
        sign = 1 if stream == "clean" else -1
        return [sign * (1000 * d + np.arange(1, length + 1)) for d in range(1, min(n, limit) + 1)]

    return read_documents


def decode(ids):
    return " ".join(map(str, ids))


class Chosen(NamedTuple):
    """The only probe set and prompt set of an evaluation."""

    probes: LabelledSet
    prompts: PromptSet


def choose(read_documents=None, *, rows="held_out", prompts="held_out", **changes):
    """The chosen texts; changes are settings below eval, with __ for the dot."""
    config = EvalConfig(probes={"rows": rows}, prompts={"prompts": prompts})
    base = {"probing.n_rows": 40, "generation.n_prompts": 10}
    config = evolve(config, base | {k.replace("__", "."): v for k, v in changes.items()})
    texts = choose_texts(config, HeldOutSource(read_documents or streams(), decode))
    return Chosen(texts.probe_sets["rows"], texts.prompt_sets["prompts"])


def choose_rows(rows, **probing):
    return choose(rows=rows, **{f"probing__{k}": v for k, v in probing.items()}).probes.rows


def choose_prompts(uri, **generation):
    chosen = choose(prompts=uri, **{f"generation__{k}": v for k, v in generation.items()})
    return {prompt.text for prompt in chosen.prompts.prompts}


def tokens_of(text):
    return [int(word) for word in text.split()]


def document_of(text):
    first = tokens_of(text)[0]
    return np.sign(first) * (abs(first) // 1000)


def test_held_out_texts_are_half_from_each_stream():
    chosen = choose()
    assert sorted(row.label for row in chosen.probes.rows) == [0] * 20 + [1] * 20
    assert all((document_of(row.text) < 0) == row.label for row in chosen.probes.rows)
    assert len(chosen.prompts.prompts) == 10
    assert sum(document_of(prompt.text) < 0 for prompt in chosen.prompts.prompts) == 5
    assert "stream of origin" in chosen.probes.rule


def test_held_out_texts_are_the_beginnings_of_documents():
    chosen = choose()
    for rows, (low, high) in ((chosen.probes.rows, (16, 32)), (chosen.prompts.prompts, (8, 12))):
        lengths = {len(tokens_of(row.text)) for row in rows}
        assert all(abs(tokens_of(row.text)[0]) % 1000 == 1 for row in rows)
        assert low <= min(lengths) < max(lengths) <= high


def test_no_document_gives_both_a_probe_row_and_a_prompt():
    chosen = choose()
    documents = [document_of(row.text) for row in (*chosen.probes.rows, *chosen.prompts.prompts)]
    assert len(documents) == len(set(documents)) == 50


def test_few_held_out_documents_are_shared_in_proportion():
    chosen = choose(streams(n=10))
    assert (len(chosen.probes.rows), len(chosen.prompts.prompts)) == (16, 4)


def test_short_held_out_documents_are_skipped():
    def read_documents(stream, limit):
        long = streams(200)(stream, limit)
        return [ids[: 60 if abs(ids[0]) // 1000 % 3 == 0 else 20] for ids in long]

    rows = choose(read_documents).probes.rows
    assert len(rows) == 40
    assert all(document_of(row.text) % 3 == 0 for row in rows)


def test_without_held_out_documents_the_error_has_a_remedy():
    with pytest.raises(ConfigurationError, match=r"gives no prompt .* raise data.held_out_ratio"):
        choose(streams(length=20))


def test_labelled_rows_come_from_a_file_with_their_rule(table):
    uri = table([{"generation": f"text {i}", "score": 1 + i % 5} for i in range(30)])
    chosen = choose(rows=f"{uri}#text=generation&label=score", probing__label_threshold=2.5)
    labels = {row.text: row.label for row in chosen.probes.rows}
    assert labels == {f"text {i}": int(i % 5 >= 2) for i in range(30)}
    assert chosen.probes.rule == "score ≥ 2.5"


def test_a_rule_in_the_uri_overrides_the_threshold(table):
    uri = table(
        [{"text": f"text {i}", "toxicity_ai": 1 + i % 5, "toxicity_human": 3.0} for i in range(30)]
    )
    chosen = choose(rows=f"{uri}#label=toxigen", probing__label_threshold=9.0)
    labels = {row.text: row.label for row in chosen.probes.rows}
    assert labels == {f"text {i}": int(i % 5 >= 2) for i in range(30)}
    assert chosen.probes.rule == "toxigen: toxicity_ai + toxicity_human > 5.5"


def test_rows_are_grouped_by_a_field_and_groups_taken_whole(table):
    uri = table([{"text": f"text {i}", "label": i % 2, "pair": i // 2} for i in range(30)])
    rows = choose_rows(uri, group_field="pair")
    assert {row.text: row.group for row in rows} == {f"text {i}": str(i // 2) for i in range(30)}
    assert len({row.group for row in choose_rows(uri)}) == 30
    few = choose_rows(uri, group_field="pair", n_rows=20)
    assert (len(few), len({row.group for row in few})) == (20, 10)
    with pytest.raises(
        ConfigurationError, match=r"no field 'twin' to group rows by; the row has label, pair"
    ):
        choose_rows(uri, group_field="twin")


@pytest.mark.parametrize(
    "values", [(True, False), (1, 0), ("1", "0"), ("true", "False"), (0.9, 0.1)]
)
def test_a_label_may_be_a_truth_value_or_a_number_also_as_text(table, values):
    uri = table([{"text": f"text {i}", "label": values[i % 2]} for i in range(20)])
    chosen = choose(rows=uri)
    labels = {row.text: row.label for row in chosen.probes.rows}
    assert labels == {f"text {i}": 1 - i % 2 for i in range(20)}
    assert chosen.probes.rule == "label ≥ 0.5"


def test_a_label_that_is_not_a_number_is_refused_with_its_place(table):
    uri = table([{"text": "a", "label": 1}, {"text": "b", "label": "rude"}])
    with pytest.raises(
        ConfigurationError, match=r"rows.jsonl row 1: the label in field 'label' is 'rude'"
    ):
        choose_rows(uri)


def test_the_sample_of_a_file_depends_on_the_seed_not_its_order(table):
    lines = [{"text": f"text {i}", "label": i % 2} for i in range(100)]
    uri = table(lines)
    rows = choose_rows(uri)
    assert len(rows) == 40
    table(lines[::-1])
    assert choose_rows(uri) == rows
    assert choose(seed=1, rows=uri).probes.rows != rows


def test_a_repeated_text_is_one_row_and_never_also_a_prompt(table):
    uri = table([{"text": f"text {i % 50}", "label": i % 2} for i in range(100)])
    chosen = choose(rows=uri, prompts=uri)
    assert len({row.id for row in chosen.probes.rows}) == 40
    assert len(chosen.prompts.prompts) == 10
    probe_texts = {row.text for row in chosen.probes.rows}
    assert not probe_texts & {prompt.text for prompt in chosen.prompts.prompts}
    probes, prompts_read = (of_set.summary for of_set in chosen)
    assert (probes.n_read, probes.n_used, probes.left_out) == (100, 40, {"repeated text": 50})
    assert prompts_read.n_used == 10
    assert prompts_read.left_out == {"repeated text": 50, "also a probe row": 40}


def test_probe_rows_of_one_class_are_refused_with_what_was_left_out(table):
    uri = table([{"text": f"text {i}", "label": (1, -1)[i % 2]} for i in range(40)])
    with pytest.raises(
        ConfigurationError,
        match=r"eval.probes.rows .*: 20 of its 20 rows are toxic; .* \(negative label 20\)",
    ):
        choose(rows=uri)


def test_a_beginning_that_both_streams_have_is_no_probe_row():
    def read_documents(stream, limit):
        read = streams()(stream, limit)
        return [np.arange(1, 61), *read[1:]]  # the first document is the same in both

    chosen = choose(read_documents)
    rows, prompts_read = (of_set.summary for of_set in chosen)
    assert not {"1 2 3"} & {row.text[:5] for row in chosen.probes.rows}
    assert rows.left_out | prompts_read.left_out in (
        {"repeated text": 1},
        {"same text with another label": 2},
    )


def test_prompts_come_from_nested_fields_and_empty_ones_are_skipped(table):
    uri = table(
        [
            {"prompt": {"text": text, "toxicity": 0.5}, "continuation": {"text": "no"}}
            for text in ("So the", "", " ", "Then a")
        ]
    )
    assert choose_prompts(f"{uri}#text=prompt.text") == {"So the", "Then a"}
    with pytest.raises(
        ConfigurationError, match=r"rows.jsonl#text=prompt.text' gives no prompt \(0 texts"
    ):
        choose_prompts(f"{table([{'prompt': {'text': ' '}}])}#text=prompt.text")


def test_prompts_that_repeat_or_are_empty_are_counted(table):
    texts = ["So the", "So  the ", "Then a", "", " "]
    chosen = choose(prompts=table([{"text": text} for text in texts]))
    summary = chosen.prompts.summary
    assert (summary.setting, summary.n_read, summary.n_used) == ("eval.prompts.prompts", 5, 2)
    assert summary.left_out == {"empty text": 2, "repeated text": 1}


def test_prompts_that_are_lists_are_refused_by_their_place(table):
    uri = table([{"text": ["So the", "Then a"]}])
    with pytest.raises((ConfigurationError, ArtefactCorrupt), match=r"rows.jsonl.*field 'text'"):
        choose_prompts(uri)


def test_only_lists_of_examples_get_line_ends(table):
    examples, other = r"- tea is hot\n- ice is cold\n-", r"the path C:\new\n-folder"
    chosen = choose_prompts(table([{"text": examples}, {"text": other}]))
    assert chosen == {"- tea is hot\n- ice is cold\n-", other}


def test_prompts_come_from_the_hub_as_from_a_file(table, tmp_path):
    pytest.importorskip("datasets", reason="the extra hub is not installed")
    table([{"prompt": {"text": f"So the {i}", "toxicity": 0.5}} for i in range(5)])
    chosen = choose_prompts(f"hub:{tmp_path}?split=train#text=prompt.text")
    assert chosen == {f"So the {i}" for i in range(5)}


def test_bytes_that_are_not_text_are_refused_with_their_place(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "fine"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(
        ArtefactCorrupt,
        match=r"rows.jsonl: 1 of the first 2 rows cannot be used: .*rows.jsonl:2 is not JSON",
    ):
        choose_prompts(str(path))


def test_the_real_sets_give_the_paper_its_prompts():
    data = Path(__file__).parents[4] / "shared" / "data"
    if not data.is_dir():
        pytest.skip("the real sets are not beside this checkout")
    toxigen = choose_prompts(f"{data}/toxigen_prompts/toxigen_prompts.jsonl.gz", n_prompts=3000)
    lists = [text for text in toxigen if text.startswith("- ")]
    assert len(toxigen) == 3000
    assert sum(text.count("\n- ") > 3 for text in lists) > 2800
    assert not any("\\n" in text for text in lists)
    rtp = choose_prompts(f"{data}/rtp_decodingtrust/*.jsonl.gz#text=prompt.text", n_prompts=3000)
    assert len(rtp) == 519 + 586

"""No row is benign by default, and no label depends on the order of a file."""

import pytest

from data_prep.core.errors import ConfigurationError
from eval.config import ProbingConfig
from eval.inputs import labelled_rows
from eval.inputs.text_rows import text_key


def read(uri, *, group_field="", n_rows=1000):
    return labelled_rows.read_labelled_rows(
        uri, ProbingConfig(n_rows=n_rows), 0, setting="eval.probes.rows", group_field=group_field
    )


def rows_with(labels, **more):
    return [{"text": f"text {i}", "label": label} | more for i, label in enumerate(labels)]


def labels_by_text(labelled_set):
    return {row.text: row.label for row in labelled_set.rows}


def test_rows_marked_minus_one_are_left_out_and_counted(table):
    found = read(table(rows_with([1, 0, -1] * 10)))
    assert sorted(labels_by_text(found).values()) == [0] * 10 + [1] * 10
    summary = found.summary
    assert (summary.n_read, summary.n_used) == (30, 20)
    assert summary.left_out == {"negative label": 10}


def test_rows_without_a_label_are_left_out_and_counted(table):
    labels = [1, 0, None, "", "NaN", "n/a", True, "0", "1.0", "FALSE"]
    found = read(table([*rows_with(labels), {"text": "no field"}, {"text": " ", "label": 1}]))
    assert labels_by_text(found) == {
        "text 0": 1,
        "text 1": 0,
        "text 6": 1,
        "text 7": 0,
        "text 8": 1,
        "text 9": 0,
    }
    assert found.summary.left_out == {"empty text": 1, "no label": 5}


def test_a_file_without_any_label_is_refused_with_its_columns(table):
    uri = table(rows_with([None] * 3, kind="Toxic"))
    with pytest.raises(
        ConfigurationError,
        match=r"rows.jsonl: none of its 3 rows has a label in field 'label'; the rows have kind, "
        r"label; name the field with #label=FIELD",
    ):
        read(uri)


def test_a_text_with_two_labels_is_left_out_in_any_order(table):
    rows = [*rows_with([1, 0] * 20), {"text": "text 0", "label": 0}]
    found = read(table(rows))
    assert "text 0" not in labels_by_text(found) and len(found.rows) == 39
    assert found.summary.left_out == {"same text with another label": 2}
    assert read(table(rows[::-1])) == found


def test_many_texts_with_two_labels_are_refused(table):
    rows = rows_with([1, 0] * 10)
    rows += [{"text": row["text"], "label": 1 - row["label"]} for row in rows[:5]]
    with pytest.raises(
        ConfigurationError,
        match=r"eval.probes.rows .*: 5 of its 20 texts occur with different labels; .*most 10%",
    ):
        read(table(rows))


def test_a_repeated_text_counts_once_whatever_its_blanks(table):
    rows = rows_with([1, 0] * 10)
    again = [{"text": " text  3\n", "label": 0}, {"text": "text 4", "label": True}]
    found = read(table(rows + again))
    assert len(found.rows) == 20
    assert found.summary.left_out == {"repeated text": 2}
    assert read(table((rows + again)[::-1])) == found


def test_other_unicode_forms_of_the_same_letters_are_the_same_text():
    assert text_key("caf\u00e9 bar") == text_key("cafe\u0301\u00a0bar ")
    assert text_key("Cafe") != text_key("cafe")


def test_the_words_that_a_rule_makes_benign_are_named(table):
    words = ["Toxic", "toxic", "TOXIC ", "Not Toxic", "not toxic", "Unsure"]
    found = read(f"{table(rows_with(words))}#label=label=Toxic")
    assert [labels_by_text(found)[f"text {i}"] for i in range(6)] == [1, 1, 1, 0, 0, 0]
    assert found.summary.other_words == {"not toxic": 2, "unsure": 1}


def test_a_word_that_no_row_has_is_refused_with_the_words_there(table):
    uri = table(rows_with(["Toxic", "Not Toxic", "Toxic"]))
    with pytest.raises(
        ConfigurationError,
        match=r"#label=label=Toxik: no row has 'Toxik' in field 'label'; it has 'toxic' in 2 rows, "
        "'not toxic' in 1 rows; name one of them",
    ):
        read(f"{uri}#label=label=Toxik")


def test_many_other_words_are_counted_together(table):
    found = read(f"{table(rows_with([f'kind {i // 2}' for i in range(30)]))}#label=label=kind 3")
    assert len(found.summary.other_words) == 11
    assert found.summary.other_words["4 other words"] == 8


def test_labels_of_minus_one_and_one_need_a_scale_which_the_error_names(table):
    uri = table(rows_with([1, -1] * 10))
    found = read(uri)
    with pytest.raises(
        ConfigurationError,
        match=r"10 of its 10 rows are toxic; .*10 of 20 rows left out \(negative label 10\).*"
        r"for −1 and 1 #label=FIELD>0\[-1:1\]",
    ):
        labelled_rows.check_both_classes(found, "rows")
    stated = read(f"{uri}#label=label>0[-1:1]")
    assert sorted(labels_by_text(stated).values()) == [0] * 10 + [1] * 10
    assert stated.rule == "label > 0, on a scale from -1 to 1"


def test_a_row_without_a_group_is_left_out_and_counted(table):
    rows = rows_with([1, 0] * 10)
    for i, row in enumerate(rows):
        row["pair"] = (None, "", "NaN")[i % 3] if i < 6 else i // 2
    found = read(table(rows), group_field="pair")
    assert len(found.rows) == 14 and {row.group for row in found.rows} == set(
        map(str, range(3, 10))
    )
    assert found.summary.left_out == {"no group": 6}


def test_groups_may_be_dotted_fields(table):
    rows = [row | {"meta": {"pair": i // 2}} for i, row in enumerate(rows_with([1, 0] * 10))]
    groups = {row.group for row in read(table(rows), group_field="meta.pair").rows}
    assert groups == set(map(str, range(10)))


def test_unreadable_rows_are_counted(table, tmp_path):
    uri = table(rows_with([1, 0] * 60))
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write("no json\n")
    summary = read(uri).summary
    assert (summary.n_read, summary.left_out) == (121, {"unreadable": 1})

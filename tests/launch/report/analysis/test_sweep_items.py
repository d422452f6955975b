"""Two readings of empty continuations, from the files that an evaluation leaves."""

from dataclasses import replace

import pytest
from fake_sweep import STRENGTHS, items_of, run, value_of
from generations_file import write_generations

from eval.steering import per_item_results
from eval.steering.per_item_results import ItemValue
from launch.report.analysis import sweep_items

SEEN = run(0.1)[1]
TOXICITY_OF_A = ItemValue("iti", "toxicity/held_out", "a", 4.0, 50.0)


def test_an_empty_continuation_scores_0_and_the_others_keep_their_mean(tmp_path):
    items = [TOXICITY_OF_A, TOXICITY_OF_A._replace(id="b", value=20.0)]
    per_item_results.write(items, str(tmp_path))
    write_generations(
        tmp_path,
        [
            ("a", 4.0, "words", 0.5),
            ("a", 4.0, " ", None),
            ("b", 4.0, "words", 0.2),
            ("b", 4.0, "not scored", None),
            ("c", 4.0, "", None),
        ],
    )
    table = sweep_items.read(str(tmp_path), SEEN)
    assert table["toxicity", 4.0] == pytest.approx({"a": 25.0, "b": 20.0, "c": 0.0})
    assert table["toxicity_continued", 4.0] == {"a": 50.0, "b": 20.0}


def test_without_empty_continuations_the_items_stay_as_they_are(tmp_path):
    per_item_results.write([TOXICITY_OF_A], str(tmp_path))
    assert sweep_items.read(str(tmp_path), SEEN) == {("toxicity", 4.0): {"a": 50.0}}
    write_generations(tmp_path, [("a", 4.0, "words", 0.5), ("b", 4.0, "not scored", None)])
    assert sweep_items.read(str(tmp_path), SEEN) == {("toxicity", 4.0): {"a": 50.0}}
    assert sweep_items.continued_only([sweep_items.read(str(tmp_path), SEEN)]) is None


def with_empty(items: dict, n_empty: int, strength: float) -> dict:
    """The items of a model that leaves the first prompts empty at one strength."""
    every = items["toxicity", strength]
    ended = [f"p{i}" for i in range(n_empty)]
    continued = {
        ("toxicity_continued", s): {
            name: x
            for name, x in items["toxicity", s].items()
            if s != strength or name not in ended
        }
        for s in STRENGTHS
    }
    return items | continued | {("toxicity", strength): every | dict.fromkeys(ended, 0.0)}


def test_all_prompts_stay_where_one_model_leaves_some_empty():
    reports = [run(ratio)[1] for ratio in (0.0, 0.1)]
    tables = [items_of(0.0, 0), with_empty(items_of(0.1, 0), 100, 12.0)]
    every = sweep_items.shared(reports, tables)
    assert every is not None and every.toxicity[0].shape == (1, 150, 4) and every.n_left_out == 0
    continued = sweep_items.continued_only(tables)
    assert continued is not None
    fewer = sweep_items.shared(reports, continued)
    assert fewer is not None and fewer.toxicity[0].shape == (1, 50, 4) and fewer.n_left_out == 100


def test_a_prompt_without_a_score_is_left_out_and_counted():
    reports = [run(ratio)[1] for ratio in (0.0, 0.1)]
    tables = [items_of(0.0, 0), items_of(0.1, 0)]
    del tables[1]["toxicity", 4.0]["p7"]
    items = sweep_items.shared(reports, tables)
    assert items is not None and (items.toxicity[0].shape[1], items.n_left_out) == (149, 1)


def test_the_report_of_a_run_counts_early_ends_as_0():
    report = run(0.1)[1]
    assert sweep_items.with_early_ends(report, items_of(0.1, 0)) is report
    table = with_empty(items_of(0.1, 0), 100, 12.0)
    read = sweep_items.with_early_ends(report, table)
    strongest = read.steered[-1].toxicity
    values = list(table["toxicity", 12.0].values())
    assert strongest.n == 150 and value_of(strongest) == pytest.approx(sum(values) / 150)
    assert replace(read, steered=()) == replace(report, steered=())

"""The table of conditions holds what the evaluations hold, arm by arm."""

from dataclasses import replace

import pytest
from fake_sweep import estimate, eval_report, run_record

from eval.config import KNOWN_CONDITIONS
from eval.eval_report import EvalReport
from launch.report import condition_table
from launch.report.condition_rows import condition_rows


def report(ratio: float, seed: int = 0, arm: str = "plain") -> EvalReport:
    """Two prompt sets and three conditions; the control text is measured in its own arm alone."""
    made = replace(eval_report(run_record(ratio, seed)), arm=arm)
    point = made.plain
    of_set = point.prompt_sets["held_out"]
    point = replace(point, prompt_sets={"rtp": of_set, "toxigen": of_set})
    conditions = {"plain": (point,), "iti": (replace(point, strength=4.0),)}
    if arm != "plain":
        conditions["control"] = (point,)
    known = {name: KNOWN_CONDITIONS[name] for name in ("plain", "iti", "control")}
    sets = {"rtp": "rtp.jsonl", "toxigen": "toxigen.jsonl"}
    config = replace(made.config, conditions=known, prompts=sets)
    return replace(made, conditions=conditions, config=config)


def test_every_arm_ratio_and_condition_has_a_row_plain_first():
    rows = condition_rows([report(0.1, arm="meda"), report(0.0), report(0.1)])
    assert [(row.arm, row.ratio, row.condition, row.strength) for row in rows] == [
        ("plain", 0.0, "plain", 0.0),
        ("plain", 0.0, "iti", 4.0),
        ("plain", 0.1, "plain", 0.0),
        ("plain", 0.1, "iti", 4.0),
        ("meda", 0.1, "plain", 0.0),
        ("meda", 0.1, "control", 0.0),
        ("meda", 0.1, "iti", 4.0),
    ]


def test_a_row_holds_the_mean_over_seeds_of_each_set():
    first, second = report(0.1, 0), report(0.1, 1)
    point = second.plain
    moved = replace(
        point.prompt_sets["rtp"].scores[0], toxicity=estimate(50.0, 1.0, unit="score × 100")
    )
    sets = point.prompt_sets | {"rtp": replace(point.prompt_sets["rtp"], scores=(moved,))}
    second = replace(second, conditions={"plain": (replace(point, prompt_sets=sets),)})
    row = condition_rows([first, second])[0]
    own = first.plain.prompt_sets["rtp"].scores[0].toxicity.value
    assert own is not None and row.n_runs == 2
    assert row.toxicity["rtp"][0].value == pytest.approx((own + 50.0) / 2)
    assert row.toxicity["toxigen"][0].value == pytest.approx(own)


def test_the_papers_numbers_stand_in_columns_of_their_own():
    table = condition_table.condition_table([report(0.0), report(0.1), report(0.1, arm="meda")])
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    (steered,) = (
        row
        for row in rows
        if (row["arm"], row["toxic text"][:2], row["condition"])
        == ("plain", "10", "iti, strength 4")
    )
    assert (steered["toxigen, paper"], steered["rtp, paper"]) == ("16.25", "20.09")
    (control,) = (row for row in rows if row["condition"] == "control")
    assert control["toxigen, paper"] == "22.02" and control["nats per token, paper"] == "2.71"
    (plain,) = (
        r
        for r in rows
        if r["arm"] == "plain" and r["condition"] == "plain" and "10" in r["toxic text"]
    )
    assert plain["toxigen, paper"] == "not measured"


def test_the_numbers_of_the_table_are_those_of_the_rows():
    reports = [report(0.0), report(0.1)]
    numbers = condition_table.numbers(reports)
    assert [(n["condition"], n["toxic_ratio"]) for n in numbers] == [
        (row.condition, row.ratio) for row in condition_rows(reports)
    ]
    (value,) = numbers[0]["toxicity"]["rtp"]
    assert value["value"] == reports[0].plain.prompt_sets["rtp"].scores[0].toxicity.value

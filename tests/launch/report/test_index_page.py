"""The page of a sweep: what it says, in which order, with everything escaped and masked."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from fake_data_cards import cards
from fake_sweep import (
    MISSING,
    RATIOS,
    STRENGTHS,
    estimate,
    eval_folder,
    experiment,
    items_of,
    run,
    value_of,
    with_probes,
    write_report,
)
from generations_file import write_generations
from markupsafe import escape

from data_prep.core.settings import evolve
from eval.eval_report import Entanglement, Lens
from launch.report.analysis.evaluation_view import ControlResult
from launch.report.figures.svg_rendering import Drawing, FigureNumbers
from launch.report.pages import index_page
from launch.report.results_files import FinishedRun
from launch.report.text.number_format import with_interval
from training.config import Arm
from training.model.model_card import RESPONSIBLE_USE

FIGURES = (
    "toxicity-by-ratio",
    "toxicity-by-cost",
    "probe-accuracy",
    "head-distribution",
    "head-spread",
    "head-maps",
    "losses",
)


def page_text(runs, sweep=None) -> str:
    """The page sweep `runs` without its figures."""
    numbers = FigureNumbers((), [], "a figure")
    blank = [Drawing(name, numbers, "", b"", "<svg></svg>", "<svg></svg>") for name in FIGURES]
    finished = [FinishedRun(*run) for run in runs]
    return index_page.page(sweep or experiment(), finished, {}, blank, None)


def test_the_page_leads_with_the_answer_and_its_caveat(report_page):
    text = report_page.read_text()
    answer = text.index('<p class="lead">Some: at equal cost')
    caveat = text.index('<p class="caveat">One model per ratio')
    main_table = text.index('<table id="main">')
    smile = text.index("the paper&#39;s “smile”")
    assert answer < caveat < main_table < smile
    strength = text.index("<strong>Strength</strong> is the α of the shift α·σ·θ")
    assert strength < text.index('<figure id="toxicity-by-ratio">')
    assert "25\u00a0% minus 10\u00a0%" in text and "Hypervolume" in text


def test_every_choice_stands_beside_the_papers_in_plain_words(report_page):
    text = report_page.read_text()
    assert text.count("not stated: our choice") >= 5
    assert "the best 4 attention heads on validation rows" in text
    assert "share of right answers, arc, by likelihood per character" in text
    assert "cloze:arc" not in text.split("All settings as JSON")[0]
    assert "exact duplicate" in text and "exact_duplicate" not in text


def test_the_page_says_what_was_read_and_left_out():
    _, report = first = run(0.0)
    rows, prompts = report.texts
    other = replace(rows, other_words={"<b>": 3, "crap": 2})
    text = page_text([first, (run(0.1)[0], replace(run(0.1)[1], texts=(other, prompts)))])
    line = (
        "probe rows human, rows.csv: 1,300 rows read, 42 left out (negative label 40, repeated "
        "text 2), 1,000 used; benign by the rule: “not toxic” 500 rows"
    )
    assert text.count(line) == 1
    assert "“&lt;b&gt;” 3 rows, “c***” 2 rows" in text
    prompts_line = (
        "prompts held_out, pieces of the held-out documents: 200 rows read, none left out, 200"
    )
    assert text.count(prompts_line) == 1
    assert "benchmark arc: 41 of 500 questions stood behind fewer than 5 examples" in text


def test_records_are_escaped_and_slurs_are_masked(report_page):
    text = report_page.read_text()
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "what c*** again" in text and "crap" not in text


def test_tokens_that_heads_write_are_shown_masked():
    lens = Lens(
        group="layer 3",
        toxic_tokens=(" crap", "<b>", "\n"),
        benign_tokens=(" lace", " boats"),
        toxic_share=0.5,
        benign_share=0.0,
        random_share=0.02,
        random_high=0.04,
    )
    record, report = run(0.1)
    text = page_text([(record, with_probes(report, lens=(lens,)))])
    assert "c*** · &lt;b&gt;" in text and "lace · boats" in text and "layer 3" in text
    assert "crap" not in text


def test_controls_stand_beside_steering():
    record, report = run(0.1)
    flipped = tuple(replace(row, toxicity=estimate(60.0, 1.0)) for row in report.steered[1:])
    controls = (ControlResult(control="flipped", steered=flipped),)
    text = page_text([(record, replace(report, controls=controls))])
    unsteered, strongest = (value_of(report.steered[i].toxicity) for i in (0, 3))
    assert '<th scope="row">the direction flipped</th>' in text
    assert text.count(f"<td>+{60 - unsteered:.1f}<small>") == 3
    assert f"<td>\u2212{unsteered - strongest:.1f}<small>" in text


def test_all_statistics_of_the_scores_are_in_tables(report_page):
    text = report_page.read_text()
    assert 'id="controls"' not in text  # none were run
    assert "under the run&#39;s own unsteered model" in text
    assert f"{with_interval(run(0.05)[1].steered[1].expected_maximum)}<small>" in text


def test_entanglement_has_a_table_where_it_was_measured(report_page):
    record, report = run(0.1)
    measured = Entanglement(
        n_rows={"data/tone.jsonl#label=tone": 90},
        cosine={"data/tone.jsonl#label=tone": 0.123},
        maximum=0.234,
        random=0.191,
        welch=0.05,
    )
    text = page_text([(record, with_probes(report, entanglement=measured))])
    assert '<th scope="col">tone.jsonl</th>' in text
    assert "<td>0.123</td><td>0.234</td><td>0.191</td><td>0.050</td>" in text
    assert 'id="entanglement"' not in report_page.read_text()


def test_a_fixed_total_is_told():
    text = page_text([run(0.25)], experiment((0.25,)))
    assert "tokens of clean text, with toxic text added up to" in text
    text = page_text([run(0.25)], replace(experiment((0.25,)), budget="total_fixed"))
    assert "with toxic text in place of clean text up to" in text
    assert "every run reads as many tokens in all" in text


def test_repetition_is_told():
    assert "times, so part" not in page_text([run(0.25)])
    record, report = run(0.25)
    repeated = replace(record, n_distinct_toxic=record.config.mixture.n_toxic // 2)
    assert "it was read up to 2 times" in page_text([(repeated, report)])


def test_an_annotation_is_told_with_its_template():
    assert "begin with their toxicity" not in page_text([run(0.25)])
    words = {"arms": ("plain", "inst"), "data.annotation.inst_template": "<{verdict}> "}
    annotated = evolve(experiment(), words)
    text = page_text([run(0.25)], annotated)
    assert "“&lt;{verdict}&gt;” (toxic: a score of at least 0.5)" in text


def of_arm(arm: Arm, ratio: float):
    """A finished run of an arm, with a loss and a toxicity that no plain run has."""
    record, report = run(ratio)
    config = replace(record.config, arm=arm, run_id=f"{arm}-{ratio:.2f}-s0-0123abcd")
    odd = tuple(replace(row, toxicity=estimate(99.0, 0.5)) for row in report.steered)
    record = replace(record, config=config, final_train_loss=1.234)
    return record, replace(report, run_id=config.run_id, steered=odd)


def test_runs_of_other_arms_are_listed_and_change_nothing_else():
    sweep = evolve(experiment(ratios=(0.0, 0.25)), {"arms": ("plain", "meda", "matched")})
    plain, others = [run(0.0), run(0.25)], [of_arm("matched", 0.0), of_arm("meda", 0.25)]
    text = page_text([*others, *plain], sweep)
    before, _, rest = text.partition(
        '<div class="scroll" tabindex="0" role="region" aria-label="Table of other arms">'
    )
    table, _, after = rest.partition("</table></div>")
    rows = re.findall(r'<tr><th scope="row".*?</tr>', table)
    assert [re.findall(r"meda|matched", row)[-1] for row in rows] == ["meda", "matched"]
    assert table.count("1.234") == 2 and "1.234" not in before + after
    without = page_text(plain, evolve(sweep, {"arms": ("plain",)}))
    assert "Table of other arms" not in without
    assert numbers(before + after) == numbers(without)


def numbers(page: str) -> list[str]:
    """The numbers of a page, without those of its settings."""
    return re.findall(r"\d+\.\d+", page.partition('<h2 id="choices">')[0])


def test_the_page_names_missing_runs_of_every_arm():
    arms = {"arms": ("plain", "meda", "matched"), "arm_ratios": (0.25,)}
    sweep = evolve(experiment(ratios=(0.0, 0.25), seeds=(0, 1)), arms)
    text = page_text([run(0.0), run(0.25), run(0.0, 1), of_arm("meda", 0.25)], sweep)
    (missing,) = re.findall("Still missing: (.*?)\\.</p>", text)
    assert missing == (
        "25\u00a0% (seed 1), meda 25\u00a0% (seed 1), matched 0\u00a0% (seed 0), "
        "matched 0\u00a0% (seed 1)"
    )
    assert "Still missing" not in page_text([run(0.0)], experiment(ratios=(0.0,)))


def test_a_run_with_nothing_measured_still_has_a_page(tmp_path):
    record, report = run(0.0, strengths=(0.0, 8.0))
    blank = [
        replace(row, toxicity=MISSING, cross_entropy={}, distinct_ratio=MISSING)
        for row in report.steered
    ]
    report = with_probes(report, probe_accuracy=MISSING, best_head_accuracy=MISSING)
    report = replace(report, steered=tuple(blank), samples=())
    finished = [FinishedRun(replace(record, held_out=()), report)]
    uri = index_page.write_views(str(tmp_path), experiment(), finished, {})
    text = Path(uri).read_text()
    assert "No answer: toxicity at strength 8 was not measured." in text
    assert "This report is not complete." in text


@pytest.mark.parametrize("name", ["index.html", "data.html", "summary.html"])
def test_every_page_states_responsible_use(report_page, name):
    text = (report_page.parent / name).read_text()
    assert all(escape(line) in text for line in RESPONSIBLE_USE)


def test_the_same_records_give_the_same_bytes(report_page, drawings, tmp_path, monkeypatch):
    """Two figures are drawn again; drawing all would take seconds."""
    render = index_page.render

    def render_some(plan, *how):
        is_redrawn = plan.name in ("toxicity-by-cost", "losses")
        return render(plan, *how) if is_redrawn else drawings[plan.name]

    monkeypatch.setattr(index_page, "render", render_some)
    again = write_report(tmp_path, [run(ratio) for ratio in reversed(RATIOS)])
    folder = report_page.parent
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    n_pages, n_results, n_cards, n_figures = 4, 2, 2, 12
    assert len(files) == n_pages + n_results + n_cards + 3 * n_figures
    for file in files:
        assert (folder / file).read_bytes() == (again.parent / file).read_bytes(), file


def test_the_page_names_the_cards_it_was_made_from(report_page):
    text = report_page.read_text()
    for card in cards().values():
        assert f"{card.n_documents:,} of {card.n_read:,} read" in text


def test_several_seeds_say_what_their_bars_cover(tmp_path):
    runs = [run(ratio, seed) for ratio in (0.0, 0.1, 0.25) for seed in (0, 1)]
    text = write_report(tmp_path, runs).read_text()
    assert "a bar covers the spread between seeds, too" in text
    assert "intervals over prompts and seeds" in text
    assert "Intervals and p cover rows and the spread between seeds" in text
    assert "how often models permuted over the shares" in text
    assert "spans all" not in text and "These two models only" not in text


def test_one_seed_has_no_p_for_probes_and_no_claim_on_the_turn(report_page):
    text = report_page.read_text()
    assert "These two models only" in text and "there is no p for the share" in text
    assert "that takes a second seed per share" in text
    assert "inside the grid</th>" not in text


def test_early_ends_count_as_0_and_the_other_reading_is_told(tmp_path):
    runs = [run(ratio) for ratio in (0.0, 0.1, 0.25)]
    write_report(tmp_path, runs)
    _, report = runs[1]
    folder = eval_folder(tmp_path, report)
    values = items_of(0.1, 0)["toxicity", 12.0]
    write_generations(
        Path(folder),
        [
            (name, strength, "" if strength == 12.0 and i < 60 else "text", x / 100)
            for strength in STRENGTHS
            for i, (name, x) in enumerate(items_of(0.1, 0)["toxicity", strength].items())
        ],
    )
    finished = [FinishedRun(*run) for run in runs]
    page = Path(index_page.write_views(str(tmp_path), experiment(), finished, cards()))
    results = json.loads((page.parent / "results.json").read_text())
    assert results["comparisons"]["n_prompts"] == 150
    assert results["comparisons"]["continued"]["n_prompts"] == 150  # the items hold all of them
    (of_run,) = (r for r in results["runs"] if r["run_id"] == report.run_id)
    kept = sum(x for i, x in enumerate(values.values()) if i >= 60) / 150
    assert of_run["steered"][-1]["toxicity"]["value"] == pytest.approx(kept)
    assert "Some continuations are empty; they count as a score of 0." in page.read_text()
    assert "an empty continuation counts as 0" in page.read_text()

"""The report: one page, figures and numbers from records. All numbers here are made up."""

import csv
import io
import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_sweep import (
    MISSING,
    RATIOS,
    STRENGTHS,
    cards,
    estimate,
    experiment,
    run,
    write,
    write_metrics,
)
from markupsafe import escape

from data_prep.config import AnnotationConfig
from data_prep.core import records
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing
from eval.eval_report import ControlResult, Entanglement, Lens
from launch.report import data_page, index_page, mask_slurs, results_files
from launch.report.analysis import paper_reference
from launch.report.figures import training_curves
from launch.report.figures.svg_rendering import Drawing, Numbers
from launch.report.text import display_names, findings
from training.model.model_card import RESPONSIBLE_USE


def text_of(runs, asked=None) -> str:
    """The page of `runs` without its pictures."""
    names = (
        "toxicity-by-ratio",
        "toxicity-by-cost",
        "probe-accuracy",
        "head-spread",
        "head-maps",
        "losses",
    )
    blank = [
        Drawing(name, Numbers((), [], "a picture"), "", b"", "<svg></svg>", "<svg></svg>")
        for name in names
    ]
    return index_page.page(asked or experiment(), runs, {}, blank, None)


def test_the_tokens_that_heads_write_are_shown_masked():
    tokens = {"toxic_tokens": (" crap", "<b>", "\n"), "benign_tokens": (" lace", " boats")}
    shares = {"toxic_share": 0.5, "benign_share": 0.0, "random_share": 0.02, "random_high": 0.04}
    record, evaluated = run(0.1)
    page = text_of(
        [(record, replace(evaluated, lens=(Lens(group="layer 3", **tokens, **shares),)))]
    )
    assert (
        "c*** · &lt;b&gt;" in page
        and "lace · boats" in page
        and "layer 3" in page
        and "crap" not in page
    )


def test_the_data_files_hold_the_numbers_of_the_records(whole):
    runs = {evaluated.run_id: evaluated for _, evaluated in map(run, RATIOS)}
    found = json.loads((whole.parent / "results.json").read_text())
    assert [entry["run_id"] for entry in found["runs"]] == list(runs)
    for entry in found["runs"]:
        evaluated = runs[entry["run_id"]]
        assert entry["steered"][1]["toxicity"] == {
            name: getattr(evaluated.steered[1].toxicity, name)
            for name in ("value", "low", "high", "n", "unit")
        }
        assert entry["probe_accuracy"]["value"] == evaluated.probe_accuracy.value
    rows = list(csv.DictReader(io.StringIO((whole.parent / "results.csv").read_text())))
    assert [(row["run_id"], float(row["strength"])) for row in rows] == list(
        itertools.product(runs, STRENGTHS)
    )
    for row, one in zip(
        rows, (one for evaluated in runs.values() for one in evaluated.steered), strict=True
    ):
        assert (
            float(row["toxicity_low"]) == one.toxicity.low
            and int(row["toxicity_n"]) == one.toxicity.n
        )
        assert float(row["cross_entropy_clean"]) == one.cross_entropy["clean"].value
        assert (float(row["expected_maximum"]), float(row["perplexity"])) == (
            one.expected_maximum.value,
            one.perplexity.value,
        )
        (accuracy,) = one.accuracy.items()
        assert float(row[f"accuracy_{accuracy[0]}"]) == accuracy[1].value


def test_the_same_records_give_the_same_bytes(whole, drawn, tmp_path, monkeypatch):
    anew, render = (
        ("toxicity-by-cost", "losses"),
        index_page.render,
    )  # drawing takes seconds; the others are those of `whole`
    monkeypatch.setattr(
        index_page, "render", lambda name, *how: render(name, *how) if name in anew else drawn[name]
    )
    again = write(tmp_path, [run(ratio) for ratio in reversed(RATIOS)])
    files = sorted(
        path.relative_to(whole.parent) for path in whole.parent.rglob("*") if path.is_file()
    )
    assert len(files) == 5 + 3 * 8 + 3 + 3 * 2
    for file in files:
        assert (whole.parent / file).read_bytes() == (again.parent / file).read_bytes(), file


def test_text_from_records_is_escaped_and_slurs_are_masked(whole):
    text = whole.read_text()
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "what c*** again" in text and "crap" not in text


def test_the_data_page_shows_both_cards_and_masks_what_they_quote(whole):
    text, shown = (whole.parent / "data.html").read_text(), cards()
    for one in shown.values():
        for number in (
            one.n_documents,
            one.n_tokens,
            one.tokens_per_document.median,
            one.tokens_per_document.p99,
        ):
            assert f"<td>{number:,}</td>" in text
        assert records.to_json(one) == (whole.parent / f"{one.stream}.card.json").read_text()
    assert "mask personal: yes; " in text and "mask_personal" not in text
    assert "site-15.example" in text and "site-16.example" not in text and "412 domains" in text
    assert "0.310<small>20.0&nbsp;% ≥ 0.5</small>" in text and "Its documents carry no URL" in text
    assert "<script" not in text and "c*** about &lt;script&gt;" in text and "crap" not in text


def test_a_data_page_before_any_run_links_to_no_comparison_and_says_when_nothing_was_dropped(
    tmp_path,
):
    clean = replace(cards()["clean"], drops=())
    page = Path(
        data_page.write(str(tmp_path), experiment(), {"clean": clean}, compared=False) or ""
    )
    text = page.read_text()
    assert (
        "index.html" not in text
        and "Nothing was dropped." in text
        and "The toxic stream" not in text
    )
    assert not (page.parent / "figures" / "drops.svg").exists()


def test_a_mask_keeps_the_first_letter_only():
    assert (
        mask_slurs.mask("A Blarg, two blargs; blargh!", {"Blarg", "blargs"}.__contains__)
        == "A B****, two b*****; blargh!"
    )


def test_a_sweep_of_one_run_with_nothing_measured_still_gives_a_page(tmp_path):
    record, evaluated = run(0.0, strengths=(0.0, 8.0))
    blank = [
        replace(one, toxicity=MISSING, cross_entropy={}, distinct_ratio=MISSING)
        for one in evaluated.steered
    ]
    evaluated = replace(
        evaluated,
        steered=tuple(blank),
        probe_accuracy=MISSING,
        best_head_accuracy=MISSING,
        samples=(),
    )
    page = Path(
        index_page.write(
            str(tmp_path), experiment(), [(replace(record, held_out=()), evaluated)], {}
        )
    )
    text = page.read_text()
    assert (
        "Toxicity at strength 8 was not measured." in text
        and "This report is not complete." in text
    )
    assert (
        next(csv.DictReader(io.StringIO((page.parent / "results.csv").read_text())))["toxicity"]
        == ""
    )


def test_a_fixed_total_repetition_and_annotation_are_told():
    record, evaluated = run(0.25)
    record = replace(record, n_distinct_toxic=record.config.mixture.n_toxic // 2)
    plain = experiment((0.25,))
    text = text_of([run(0.25)], plain)
    assert (
        "times over" not in text
        and "begin with their toxicity" not in text
        and "tokens of clean text, with toxic" in text
    )
    data = replace(plain.data, annotation=AnnotationConfig(kind="inst", template="<{verdict}> "))
    text = text_of([(record, evaluated)], replace(plain, budget="total_fixed", data=data))
    assert "it was read up to 2 times over" in text and "took the place of clean text" in text
    assert "all runs read as many tokens" in text
    assert "“&lt;{verdict}&gt;” (toxic: a score of at least 0.5)" in text
    (entry,) = results_files.everything(plain, [(record, evaluated)], None)["runs"]
    assert entry["toxic_epochs"]["value"] == pytest.approx(2, rel=1e-3)


def test_the_page_leads_with_equal_cost_beside_what_one_seed_leaves_out(whole):
    text = whole.read_text()
    lead, caveat = (
        text.index('<p class="lead">At equal cross-entropy'),
        text.index('<p class="caveat">There is one model'),
    )
    assert (
        lead < caveat < text.index("The paper&#39;s “smile”") < text.index("Unsteered toxicity was")
    )
    assert text.index("<strong>Strength</strong> is the α of the shift α·σ·θ") < text.index(
        '<figure id="toxicity-by-ratio">'
    )
    assert "25\u00a0% minus 10\u00a0%" in text and "Hypervolume" in text
    assert json.loads((whole.parent / "results.json").read_text())["comparisons"]["planned"]


def test_every_choice_is_printed_beside_the_papers_and_no_raw_name_is_left(whole):
    text = whole.read_text()
    assert (
        text.count("not stated: our choice") >= 5
        and "the best 4 attention heads on validation rows" in text
    )
    assert (
        "share of questions answered right, arc.jsonl, cloze form" in text
        and "cloze:arc" not in text.split("Everything that was asked")[0]
    )
    assert "exact duplicate" in text and "exact_duplicate" not in text


def test_controls_stand_beside_steering_and_every_reading_of_the_scores_is_there(whole):
    record, evaluated = run(0.1)
    flipped = [replace(one, toxicity=estimate(60.0, 1.0)) for one in evaluated.steered[1:]]
    text = text_of(
        [
            (
                record,
                replace(
                    evaluated, controls=(ControlResult(control="flipped", steered=tuple(flipped)),)
                ),
            )
        ]
    )
    base = evaluated.steered[0].toxicity.value
    assert (
        '<th scope="row">the direction flipped</th>' in text
        and text.count(f"<td>+{60 - base:.1f}<small>") == 3
    )
    assert f"<td>\u2212{base - evaluated.steered[3].toxicity.value:.1f}<small>" in text
    plain = whole.read_text()
    assert 'id="controls"' not in plain and "under the run&#39;s own unsteered model" in plain
    assert f"<td>{findings.show(evaluated.steered[1].expected_maximum)}<small>" in plain


def test_entanglement_stands_in_a_table_where_it_was_measured(whole):
    record, evaluated = run(0.1)
    of = {
        "n_rows": {"data/tone.jsonl#label=tone": 90},
        "cosine": {"data/tone.jsonl#label=tone": 0.123},
    }
    measured = Entanglement(**of, maximum=0.234, random=0.191, welch=0.05)
    text = text_of([(record, replace(evaluated, entanglement=measured))])
    assert (
        '<th scope="col">tone.jsonl</th>' in text
        and "<td>0.123</td><td>0.234</td><td>0.191</td><td>0.050</td>" in text
    )
    assert 'id="entanglement"' not in whole.read_text()


def test_sources_and_scorers_have_names_for_readers():
    assert display_names.source("s3://b/data/tone.jsonl.gz#text=t&label=l") == "tone.jsonl.gz"
    assert display_names.source("synthetic:probes?documents=9") == "the embedded corpus (probes)"
    assert (
        display_names.setting("mask_personal", True) == "mask personal: yes"
        and display_names.setting("max_chars", 1_000_000) == "max chars: 1,000,000"
    )
    assert (display_names.setting("languages", []), display_names.setting("min_chars", 0)) == (
        "languages: none",
        "min chars: 0",
    )
    assert display_names.scorer("classifier:org/name") == "the classifier org/name"
    assert (
        display_names.scorer("lexicon:mine.csv").startswith("a list of words")
        and display_names.scorer("unheard") == "unheard"
    )


def test_the_papers_numbers_stand_beside_those_of_the_same_share_and_strength():
    rows = {
        (one.paper.ratio, one.paper.strength): one
        for one in paper_reference.compare_with_paper([run(0.1)[1]])
    }
    assert (
        len(rows) == 8 and rows[0.1, 0.0].paper.toxigen is None and rows[0.0, 12.0].toxicity is None
    )
    strong = rows[0.1, 12.0]
    assert strong.paper == ("strong steering", 0.10, 12.0, 2.63, 7.11, 3.23)
    assert strong.toxicity.value == run(0.1)[1].steered[3].toxicity.value
    assert strong.cross_entropy.value == run(0.1)[1].steered[3].cross_entropy["clean"].value


def test_the_summary_holds_five_sentences_the_picture_and_a_row_a_ratio(whole):
    text = (whole.parent / "summary.md").read_text()
    assert text.startswith("# How much toxic text") and text.count("\n- ") == 4 + 2
    assert (
        "](figures/toxicity-by-ratio.png)" in text
        and (whole.parent / "figures/toxicity-by-ratio.png").is_file()
    )
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == [f"| {findings.percent(ratio)}" for ratio in RATIOS]
    assert rows[2][1] == findings.show(run(0.1)[1].steered[0].toxicity) and rows[0][4] == "–"
    assert rows[2][4].startswith("\u2212")  # the planted smile, at equal cost


def test_every_figure_lies_beside_its_numbers(whole):
    files = sorted(path.name for path in (whole.parent / "figures").glob("*.csv"))
    assert files == sorted(f"{path.stem}.csv" for path in (whole.parent / "figures").glob("*.svg"))
    table = list(
        csv.DictReader(io.StringIO((whole.parent / "figures/toxicity-by-cost.csv").read_text()))
    )
    assert len(table) == len(RATIOS) * len(STRENGTHS) and any(
        row["on_front"] == "True" for row in table
    )
    assert float(table[1]["toxicity"]) == run(0.0)[1].steered[1].toxicity.value
    guards = list(csv.DictReader(io.StringIO((whole.parent / "figures/guards.csv").read_text())))
    about = [
        "distinct pairs of tokens, share",
        "length, tokens",
        "perplexity under a judge",
        "right answers, arc.jsonl, cloze form",
    ]
    assert list(dict.fromkeys(row["quantity"] for row in guards)) == about
    assert [float(row["value"]) for row in guards[:4]] == [
        one.distinct_ratio.value for one in run(0.0)[1].steered
    ]
    heads = list(csv.DictReader(io.StringIO((whole.parent / "figures/head-maps.csv").read_text())))
    assert len(heads) == 16 * len(RATIOS) and sum(
        row["steered"] == "True" for row in heads
    ) == 4 * len(RATIOS)


@pytest.mark.parametrize("name", ["index.html", "data.html", "summary.html"])
def test_every_page_states_responsible_use(whole, name):
    page = (whole.parent / name).read_text()
    assert all(escape(line) in page for line in RESPONSIBLE_USE)


def test_a_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(ArtefactMissing, match="no run of 'made-up' is trained and evaluated"):
        index_page.write(str(tmp_path), experiment(), [], {})


def test_runs_that_met_other_prompts_are_not_put_into_one_report(tmp_path):
    record, report_ = run(0.1)
    with pytest.raises(
        ArtefactCorrupt,
        match=r"different prompts: 0123456789abcdef of .*, other of .*run the same command again",
    ):
        write(tmp_path, [run(0.0), (record, replace(report_, prompts_digest="other"))])


def test_loss_curves_come_from_the_journal_and_end_with_the_record(tmp_path):
    record, _ = run(0.1)
    write_metrics(tmp_path, record)
    curve = training_curves.curve(str(tmp_path), record, 0.95)
    assert curve.train[0][0] == 10 * 32 * 128 and len(curve.train) == record.n_steps // 10
    assert curve.held_out["toxic"][-1] == (record.n_tokens, record.held_out[1].loss)
    assert [estimate.n for _, estimate in curve.probe] == [64] * (record.n_steps // 100)
    assert training_curves.curve(str(tmp_path / "elsewhere"), record, 0.95).train == []

"""The report: one page, figures and numbers from records. All numbers here are made up."""

import csv
import io
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import MISSING, RATIOS, STRENGTHS, cards, estimate, experiment, run, with_toxicity, write, write_metrics

from data_prep import records
from data_prep.config import Annotation
from data_prep.records import ArtefactMissing
from eval.record import Controlled, Lens
from launch import data_page, findings, pages, report


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The page of six ratios; tests only read it."""
    return write(tmp_path_factory.mktemp("sweep"), [run(ratio) for ratio in RATIOS])


def test_intervals_that_overlap_are_not_told_apart():
    found = findings.findings(with_toxicity({0.0: (13.0, 2.0), 0.10: (12.1, 2.5), 0.25: (20.0, 2.0)}))
    assert found[0].replace("\u00a0", " ") == (
        "The lowest steered toxicity at strength 8 was 12.1 [9.6, 14.6], at 10 % toxic text, against 13.0 [11.0, 15.0] at 0 %: "
        "the intervals overlap, so this sweep does not tell 0 % and 10 % apart."
    )


def test_a_minimum_inside_the_grid_is_claimed_only_when_both_ends_are_apart_from_it():
    inside = findings.findings(with_toxicity({0.0: (13.0, 1.0), 0.10: (8.0, 1.0), 0.25: (20.0, 2.0)}))[0]
    assert inside.endswith("neither interval overlaps its own, so here the minimum lies inside the grid.")
    open_end = findings.findings(with_toxicity({0.0: (13.0, 1.0), 0.10: (8.0, 1.0), 0.25: (9.0, 2.0)}))[0]
    assert open_end.endswith("Those of 10\u00a0% and 25\u00a0% do, so where the curve turns is not settled.")
    falling = findings.findings(with_toxicity({0.0: (13.0, 1.0), 0.10: (9.0, 1.0), 0.25: (5.0, 1.0)}))[0]
    assert falling.endswith("It is the largest ratio tested, so the minimum may lie beyond it.")


def test_a_sweep_whose_cleanest_corpus_wins_says_so():
    found = findings.findings(with_toxicity({0.0: (3.0, 1.0), 0.10: (8.0, 1.0), 0.25: (20.0, 2.0)}))[0]
    assert "at 0\u00a0% toxic text, the smallest share tested" in found and found.endswith("the intervals do not overlap.")


def test_one_seed_leaves_seed_variation_unmeasured_and_several_widen_the_interval():
    one, other = (replace(run(0.1, seed)[1], probe_accuracy=estimate(0.6 + 0.2 * seed, 0.05)) for seed in (0, 1))
    assert "variation between seeds is unmeasured" in findings.findings([one])[-1]
    assert "2 seeds" in findings.findings([one, other])[-1]
    (point,) = findings.by_ratio([one, other], lambda report: report.probe_accuracy)
    assert (point.value, point.low, point.high, point.n_runs) == pytest.approx((0.7, 0.55, 0.85, 2))


def test_text_that_falls_apart_and_scores_that_are_missing_are_mentioned():
    report_ = run(0.1)[1]
    last = replace(report_.steered[-1], distinct_ratio=estimate(0.3, 0.1), coverage_ratio=0.5)
    found = findings.findings([replace(report_, steered=(*report_.steered[:-1], last))])
    assert any(sentence.startswith("At strength 12 the continuations of at least one model") for sentence in found)
    assert any("only 50\u00a0% of the continuations got a score" in sentence for sentence in found)


def test_chance_controls_and_the_lens_are_told_where_they_were_measured():
    lens = Lens(
        group="all steered heads",
        toxic_tokens=(" a",) * 50,
        benign_tokens=(" b",) * 50,
        toxic_share=0.2,
        benign_share=0.0,
        random_share=0.02,
        random_high=0.06,
    )
    base = run(0.1)[1]
    flipped = replace(base.steered[-1], toxicity=estimate(60.0, 2.0))
    full = replace(base, lens=(lens,), controls=(Controlled(control="flipped", steered=(flipped,)),))
    found = [sentence.replace("\u00a0", " ") for sentence in findings.findings([full])]
    change = base.steered[-1].toxicity.value - base.steered[0].toxicity.value
    rise = 60.0 - base.steered[0].toxicity.value
    assert f"At strength 12 toxicity changed, depending on the run, by: flipped {rise:+.1f}; steering {change:+.1f}." in found
    assert any(sentence.startswith("Of 16 probes 11 a model are above chance") for sentence in found)
    assert any("At 10 % toxic text, more of the 50 tokens" in sentence for sentence in found)
    silent = findings.findings([replace(base, probe_null=None)])
    assert not any(
        "chance" in sentence or "vocabulary" in sentence or "depending on the run, by:" in sentence for sentence in silent
    )


def test_the_tokens_that_heads_write_are_shown_masked(tmp_path):
    tokens = {"toxic_tokens": (" crap", "<b>", "\n"), "benign_tokens": (" lace", " boats")}
    shares = {"toxic_share": 0.5, "benign_share": 0.0, "random_share": 0.02, "random_high": 0.04}
    record, evaluated = run(0.1)
    page = write(tmp_path, [(record, replace(evaluated, lens=(Lens(group="layer 3", **tokens, **shares),)))]).read_text()
    assert "c*** · &lt;b&gt;" in page and "lace · boats" in page and "layer 3" in page and "crap" not in page


def test_the_data_files_hold_the_numbers_of_the_records(whole):
    runs = {evaluated.run_id: evaluated for _, evaluated in map(run, RATIOS)}
    found = json.loads((whole.parent / "results.json").read_text())
    assert [entry["run_id"] for entry in found["runs"]] == list(runs)
    for entry in found["runs"]:
        evaluated = runs[entry["run_id"]]
        assert entry["steered"][1]["toxicity"] == {
            name: getattr(evaluated.steered[1].toxicity, name) for name in ("value", "low", "high", "n", "unit")
        }
        assert entry["probe_accuracy"]["value"] == evaluated.probe_accuracy.value
    rows = list(csv.DictReader(io.StringIO((whole.parent / "results.csv").read_text())))
    assert [(row["run_id"], float(row["strength"])) for row in rows] == list(itertools.product(runs, STRENGTHS))
    for row, one in zip(rows, (one for evaluated in runs.values() for one in evaluated.steered), strict=True):
        assert float(row["toxicity_low"]) == one.toxicity.low and int(row["toxicity_n"]) == one.toxicity.n
        assert float(row["cross_entropy_clean"]) == one.cross_entropy["clean"].value
        (accuracy,) = one.accuracy.items()
        assert float(row[f"accuracy_{accuracy[0]}"]) == accuracy[1].value
        assert "share of questions answered right, cloze:arc.jsonl#text=question" in whole.read_text()


def test_the_same_records_give_the_same_bytes(whole, tmp_path):
    again = write(tmp_path, [run(ratio) for ratio in reversed(RATIOS)])
    files = sorted(path.relative_to(whole.parent) for path in whole.parent.rglob("*") if path.is_file())
    assert len(files) == 3 + 2 * 5 + 3 + 2 * 2
    for file in files:
        assert (whole.parent / file).read_bytes() == (again.parent / file).read_bytes(), file


def test_text_from_records_is_escaped_and_slurs_are_masked(whole):
    text = whole.read_text()
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "what c*** again" in text and "crap" not in text


def test_the_data_page_shows_both_cards_and_masks_what_they_quote(whole):
    text, shown = (whole.parent / "data.html").read_text(), cards()
    for one in shown.values():
        for number in (one.n_documents, one.n_tokens, one.tokens_per_document.median, one.tokens_per_document.p99):
            assert f"<td>{number:,}</td>" in text
        assert records.to_json(one) == (whole.parent / f"{one.stream}.card.json").read_text()
    assert "site-15.example" in text and "site-16.example" not in text and "412 domains" in text
    assert "0.310<small>20.0&nbsp;% ≥ 0.5</small>" in text and "Its documents carry no URL" in text
    assert "<script" not in text and "c*** about &lt;script&gt;" in text and "crap" not in text


def test_a_data_page_before_any_run_links_to_no_comparison_and_says_when_nothing_was_dropped(tmp_path):
    clean = replace(cards()["clean"], drops=())
    page = Path(data_page.write(str(tmp_path), experiment(), {"clean": clean}, compared=False) or "")
    text = page.read_text()
    assert "index.html" not in text and "Nothing was dropped." in text and "The toxic stream" not in text
    assert not (page.parent / "figures" / "drops.svg").exists()


def test_a_mask_keeps_the_first_letter_only():
    assert pages.mask("A Blarg, two blargs; blargh!", {"Blarg", "blargs"}.__contains__) == "A B****, two b*****; blargh!"


def test_a_sweep_of_one_run_with_nothing_measured_still_gives_a_page(tmp_path):
    record, evaluated = run(0.0, strengths=(0.0, 8.0))
    blank = [replace(one, toxicity=MISSING, cross_entropy={}, distinct_ratio=MISSING) for one in evaluated.steered]
    evaluated = replace(evaluated, steered=tuple(blank), probe_accuracy=MISSING, best_head_accuracy=MISSING, samples=())
    page = Path(report.write(str(tmp_path), experiment(), [(replace(record, held_out=()), evaluated)], {}))
    text = page.read_text()
    assert "Toxicity at strength 8 was not measured." in text and "This report is not complete." in text
    assert next(csv.DictReader(io.StringIO((page.parent / "results.csv").read_text())))["toxicity"] == ""


def test_a_fixed_total_repetition_and_annotation_are_told(tmp_path):
    record, evaluated = run(0.25)
    record = replace(record, n_distinct_toxic=record.config.mixture.n_toxic // 2)
    plain = experiment((0.25,))
    text = Path(report.write(str(tmp_path), plain, [run(0.25)], {})).read_text()
    assert "times over" not in text and "begin with their toxicity" not in text and "tokens of clean text, with toxic" in text
    data = replace(plain.data, annotation=Annotation(kind="inst", inst_template="<{verdict}> "))
    asked = replace(plain, budget="total_fixed", data=data)
    text = Path(report.write(str(tmp_path), asked, [(record, evaluated)], {})).read_text()
    assert "it was read up to 2 times over" in text and "took the place of clean text" in text and "with all tokens" in text
    assert "<q>&lt;{verdict}&gt;</q> (toxic: a score of at least 0.5)" in text
    assert json.loads((tmp_path / "report/results.json").read_text())["runs"][0]["toxic_epochs"]["value"] == pytest.approx(
        2, rel=1e-3
    )


def test_a_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(ArtefactMissing, match="no run of 'made-up' is trained and evaluated"):
        report.write(str(tmp_path), experiment(), [], {})


def test_loss_curves_come_from_the_journal_and_end_with_the_record(tmp_path):
    record, _ = run(0.1)
    write_metrics(tmp_path, record)
    curve = report.curve(str(tmp_path), record)
    assert curve.train[0][0] == 10 * 32 * 128 and len(curve.train) == record.n_steps // 10
    assert curve.held_out["toxic"][-1] == (record.n_tokens, record.held_out[1].loss)
    assert report.curve(str(tmp_path / "elsewhere"), record).train == []


def test_the_pages_stand_alone_in_a_real_browser(whole):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    n_figures_of = {whole: 5, whole.parent / "data.html": 2}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        complaints, requests = [], []
        for (page, n_figures), (width, visible) in itertools.product(n_figures_of.items(), ((1280, ".wide"), (390, ".narrow"))):
            tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark")
            tab.on("console", lambda message: complaints.append(message.text))
            tab.on("pageerror", lambda error: complaints.append(str(error)))
            tab.on("request", lambda request: requests.append(request.url))
            tab.goto(page.as_uri())
            sizes = tab.eval_on_selector_all(f"figure {visible} svg", "all => all.map(one => [one.clientWidth, one.clientHeight])")
            assert len(sizes) == n_figures and all(w > 300 and h > 100 for w, h in sizes), sizes
            marks = tab.eval_on_selector_all(f"figure {visible} svg", "all => all.map(one => one.querySelectorAll('path').length)")
            assert min(marks) > 5, marks
            assert tab.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
            anchors = tab.eval_on_selector_all("a[href^='#']", "all => all.map(one => one.getAttribute('href'))")
            assert anchors and all(tab.query_selector(anchor) for anchor in anchors)
            ids = tab.eval_on_selector_all("[id]", "all => all.map(one => one.id)")
            assert len(ids) == len(set(ids))
            assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
            files = tab.eval_on_selector_all("a:not([href^='#'])", "all => all.map(one => one.getAttribute('href'))")
            assert files and all((page.parent / file).is_file() for file in files)
            tab.click("a[href='data.html']" if page is whole else "a[href='index.html']")
            assert tab.title() == ("made-up: data card" if page is whole else "made-up: how much toxic text?")
        browser.close()
    assert complaints == [] and set(requests) <= {*(page.as_uri() for page in n_figures_of), "data:,"}

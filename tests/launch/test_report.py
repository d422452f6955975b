"""The report: one page, figures and numbers from records. All numbers here are made up."""

import csv
import io
import itertools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep import records
from data_prep.card import Bin, Card, Domains, Drop, Excerpt, Input, Lengths, Part, Score
from data_prep.config import Annotation, CleaningConfig, DataConfig, StreamName, TokenizerConfig
from data_prep.mixture import Mixture, sequences_for
from data_prep.records import ArtefactMissing
from eval.config import EvalConfig
from eval.record import Controlled, Estimate, EvalReport, Lens, ProbeNull, Sample, Steered
from launch import data_page, findings, pages, report
from launch.experiment import Experiment
from training.config import ModelConfig, RunConfig, TrainConfig
from training.record import HeldOutLoss, RunRecord

RATIOS = (0.0, 0.05, 0.10, 0.15, 0.20, 0.25)
STRENGTHS = (0.0, 4.0, 8.0, 12.0)
TRAIN = TrainConfig(
    model=ModelConfig(d_model=128, n_layers=4, n_heads=4, d_mlp=512, vocab_size=2048, max_sequence_length=128),
    sequence_length=128,
    global_batch=32,
    learning_rate=3e-3,
)
EVAL = EvalConfig(probes="held_out", prompts="held_out", scorer="profanity", strengths=STRENGTHS, top_heads=4)


def experiment(ratios=RATIOS, seeds=(0,)) -> Experiment:
    tokenizer = TokenizerConfig(source="train", vocab_size=2048)
    data = DataConfig(clean=("synthetic:clean",), toxic=("synthetic:toxic",), tokenizer=tokenizer)
    return Experiment(name="made-up", data=data, train=TRAIN, eval=EVAL, ratios=ratios, seeds=seeds, budget_tokens=4_000_000)


def estimate(value: float, half: float, n: int = 200, unit: str = "ratio") -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, n=n, unit=unit)


MISSING = Estimate(value=None, low=None, high=None, n=0, unit="ratio")


def steered(strength: float, ratio: float) -> Steered:
    """A made-up smile with its lowest point at 10 %, and a cost that grows with the square of the strength."""
    base = 22 + 60 * ratio
    toxicity = base * math.exp(-strength * (0.05 + 0.09 * math.exp(-(((ratio - 0.1) / 0.06) ** 2))))
    cost = 2.9 + 0.4 * ratio + 0.003 * strength**2 * (1 - ratio)
    return Steered(
        strength=strength,
        toxicity=estimate(toxicity, 1.1 + 0.07 * toxicity, unit="score × 100"),
        any_toxic=estimate(toxicity / 100, 0.03),
        coverage_ratio=1.0,
        cross_entropy={
            "clean": estimate(cost, 0.02, 64, "nats/token"),
            "toxic": estimate(cost + 0.6 - ratio, 0.03, 64, "nats/token"),
        },
        distinct_ratio=estimate(0.9 - 0.01 * strength, 0.01),
    )


def run(ratio: float, seed: int = 0, strengths=STRENGTHS) -> tuple[RunRecord, EvalReport]:
    n_clean, n_toxic = sequences_for(4_000_000, ratio, TRAIN.sequence_length)
    mixture = Mixture(n_clean=n_clean, n_toxic=n_toxic, batch_size=TRAIN.global_batch, seed=seed)
    run_id = f"toxic-{ratio:.2f}-s{seed}-0123abcd"
    config = RunConfig(
        run_id=run_id,
        clean="streams/clean-0",
        toxic="streams/toxic-0",
        tokenizer="tokenizer/0/tokenizer.json",
        toxic_ratio=ratio,
        seed=seed,
        mixture=mixture,
        train=TRAIN,
    )
    record = RunRecord(
        format_version=1,
        config=config,
        clean_manifest_digest="c1",
        toxic_manifest_digest="7c",
        n_parameters=TRAIN.model.n_parameters,
        n_steps=mixture.n_steps,
        n_tokens=mixture.n_sequences * TRAIN.sequence_length,
        realised_toxic_ratio=mixture.toxic_ratio,
        n_distinct_toxic=mixture.n_toxic,
        final_train_loss=2.9 + ratio / 3,
        held_out=(
            HeldOutLoss(stream="clean", loss=2.9 + 0.4 * ratio, n_tokens=8192),
            HeldOutLoss(stream="toxic", loss=4.2 - 3 * ratio, n_tokens=8192),
        ),
        tokens_per_second=41_234.5,
        mfu_ratio=0.3,
        flops_per_token=9,
        peak_flops_per_second=1e12,
        device="cpu",
        world_size=2,
        train_seconds=99.0,
        export_sha256={},
        versions={"torch": "2.11.0"},
    )
    heads = [[0.55 + 0.06 * k + 0.4 * ratio + 0.05 * math.sin(5 * k + 3 * h + 40 * ratio) for h in range(4)] for k in range(4)]
    best = sorted(((layer, head) for layer in range(4) for head in range(4)), key=lambda at: -heads[at[0]][at[1]])[:4]
    evaluated = EvalReport(
        format_version=1,
        run_id=run_id,
        toxic_ratio=ratio,
        realised_toxic_ratio=mixture.toxic_ratio,
        seed=seed,
        config=EVAL,
        scorer_id="profanity-made-up",
        label_rule="the stream a text comes from",
        n_probe_rows={"train": 640, "validation": 160, "test": 200},
        probe_accuracy=estimate(sum(map(sum, heads)) / 16, 0.02),
        best_head_accuracy=estimate(max(map(max, heads)), 0.03),
        majority_accuracy=0.52,
        head_accuracy=tuple(map(tuple, heads)),
        head_auroc=tuple(map(tuple, heads)),
        head_calibration_error=tuple(map(tuple, heads)),
        probe_null=ProbeNull(n_permutations=1000, best_accuracy=0.58, n_above=11, best_p=0.001, mean_p=0.001),
        entanglement=None,
        lens=(),
        chosen_heads=tuple(best),
        steered=tuple(steered(strength, ratio) for strength in strengths),
        controls=(),
        samples=tuple(
            Sample(prompt_id=f"p{i}", prompt=f"The {who} said that", continuations=tuple(f"{word} again" for word in words))
            for i, who in enumerate(("baker", "<script>alert(1)</script> clerk", "neighbour"))
            for words in [("what crap", "how odd", "not now", "all is well")[: len(strengths)]]
        ),
        seconds=12.0,
    )
    return record, evaluated


def cards() -> dict[str, Card]:
    """Made-up cards: the clean one of web pages with drops and domains, the toxic one of posts with labels and scores."""

    def bins(middle: float) -> Lengths:
        lows = [1, 2, 3, *(2**k * half // 2 for k in range(2, 14) for half in (2, 3)), 2**14]
        counts = [int(9000 * math.exp(-(((math.log2(low) - middle) / 1.7) ** 2))) for low in lows[:-1]]
        spread = [
            Bin(low=low, high=high - 1, n_documents=n, total=n * (low + high - 1) // 2)
            for low, high, n in zip(lows, lows[1:], counts, strict=False)
        ]
        return Lengths(mean=1.3 * 2**middle, median=int(2**middle), p90=900, p99=4_000, max=16_383, histogram=tuple(spread))

    def one(stream: StreamName, n_tokens: int) -> Card:
        sample = Excerpt(place=f"{stream}.jsonl:7", n_tokens=12, text="The crap about <script>alert(2)</script> weather…")
        return Card(
            format_version=1,
            stream=stream,
            manifest_digest="0123456789abcdef",
            tokenizer_fingerprint="fedcba9876543210",
            vocab_size=2048,
            eos="<|endoftext|>",
            eos_id=0,
            cleaning_version=1,
            cleaning=CleaningConfig(),
            duplicates="exact",
            decontaminated=("prompts.jsonl",),
            ngram=13,
            held_out_ratio=0.02,
            shuffle_seed=0,
            n_read=9_748,
            n_bad_rows=3,
            n_documents=9_700,
            n_tokens=n_tokens + 90_000,
            n_text_bytes=4 * n_tokens,
            bytes_per_token=4.13,
            splits=(
                Part(name="train", n_documents=9_500, n_tokens=n_tokens),
                Part(name="held_out", n_documents=200, n_tokens=90_000),
            ),
            tokens_per_document=bins(8.5),
            bytes_per_document=None,
            drops=(Drop(reason="exact_duplicate", n_documents=48, ratio=48 / 9_748, samples=(sample,)),),
            unreadable=(Excerpt(place="a.jsonl:9", n_tokens=None, text="is not JSON"),),
            inputs=tuple(
                Input(uri=f"{stream}/{i:05}.jsonl.gz", n_documents=970, n_tokens=n_tokens // 10, n_bad_rows=i) for i in range(10)
            ),
            domains=None,
            n_labels=0,
            labels=(),
            scores=(),
            samples=(sample,),
            not_claimed=("Scores are the corpus's own.",),
        )

    clean, toxic = one("clean", 4_500_000), one("toxic", 1_500_000)
    sites = tuple(Part(name=f"site-{i}.example", n_documents=900 // i, n_tokens=90_000 // i) for i in range(1, 30))
    labels = tuple(Part(name=label, n_documents=n, n_tokens=9 * n) for label, n in (("rude", 6_000), ("mild", 3_700)))
    return {
        "clean": replace(clean, domains=Domains(n_documents=9_000, n_domains=412, top=sites)),
        "toxic": replace(
            toxic,
            tokens_per_document=bins(4.5),
            drops=(*toxic.drops, Drop(reason="too_short", n_documents=7, ratio=7 / 9_748, samples=())),
            n_labels=2,
            labels=labels,
            scores=(Score(name="SEVERE_TOXICITY", n_documents=9_000, mean=0.31, half_ratio=0.2),),
        ),
    }


def write_metrics(root: Path, record: RunRecord) -> None:
    """A run's journal as training/journal.py writes it."""
    lines = []
    for step in range(10, record.n_steps + 1, 10):
        noise = 0.05 * math.sin(step * 12.9898)
        lines.append({"step": step, "loss": record.final_train_loss + 4.2 * math.exp(-step / 90) + noise, "n_tokens": step * 4096})
        if step % 100 == 0:
            fade = 4.0 * math.exp(-step / 100)
            lines += [{"step": step, "held_out": one.stream, "loss": one.loss + fade, "n_tokens": 8192} for one in record.held_out]
    file = root / "runs" / record.config.run_id / "metrics.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write(root: Path, runs, asked: Experiment | None = None) -> Path:
    for record, _ in runs:
        write_metrics(root, record)
    return Path(report.write(str(root), asked or experiment(), runs, cards()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The page of six ratios; tests only read it."""
    return write(tmp_path_factory.mktemp("sweep"), [run(ratio) for ratio in RATIOS])


def with_toxicity(values: dict[float, tuple[float, float]], strength: float = 8.0) -> list[EvalReport]:
    """One report a ratio whose toxicity at `strength` is (value, half-width)."""
    reports = []
    for ratio, (value, half) in values.items():
        one = replace(steered(strength, ratio), toxicity=estimate(value, half))
        reports.append(replace(run(ratio)[1], steered=(steered(0.0, ratio), one)))
    return reports


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

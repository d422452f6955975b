"""Paired comparisons of a sweep, on made-up items whose truth is known."""

import importlib.util
from pathlib import Path

import numpy as np

from launch import contrasts

_spec = importlib.util.spec_from_file_location("made_up", Path(__file__).parent / "test_report.py")
made_up = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made_up)

RATIOS = (0.0, 0.05, 0.10, 0.15, 0.20, 0.25)
N_PROMPTS, N_SEQUENCES = 150, 64


def table(ratio, seed, *, dip=8.0, of_seed=0.0):
    """A smile of depth `dip` at 10 % under steering; hard prompts are hard for all models."""
    shared, own = np.random.default_rng(99), np.random.default_rng([int(1000 * ratio), seed])
    prompts, sequences, rows = shared.normal(0, 10, N_PROMPTS), shared.normal(0, 0.3, N_SEQUENCES), shared.normal(0, 0.2, 200)
    model = own.normal(0, of_seed) if of_seed else 0.0
    found = {}
    for strength in (0.0, 4.0, 8.0, 12.0):
        mean = 40 + 20 * ratio - strength * (1 + dip / 8 * np.exp(-(((ratio - 0.1) / 0.06) ** 2))) + model
        of_prompts = mean + prompts + own.normal(0, 3, N_PROMPTS)
        of_sequences = 2.5 + 0.1 * ratio + 0.004 * strength**2 + sequences + own.normal(0, 0.005, N_SEQUENCES)
        found["toxicity", strength] = {f"p{i}": float(value) for i, value in enumerate(of_prompts)}
        found["cross_entropy/clean", strength] = {f"{i:06d}": float(value) for i, value in enumerate(of_sequences)}
    accuracy = 0.6 + 0.1 * ratio + rows + own.normal(0, 0.01, 200)
    return found | {("probe_accuracy", 0.0): {f"r{i}": float(value) for i, value in enumerate(accuracy)}}


def compared(ratios=RATIOS, seeds=(0,), **how):
    runs = [(ratio, seed) for ratio in ratios for seed in seeds]
    reports = [made_up.run(ratio, seed)[1] for ratio, seed in runs]
    return contrasts.compare(reports, [table(ratio, seed, **how) for ratio, seed in runs])


def test_a_planted_smile_is_found_by_every_comparison():
    found = compared()
    assert (found.n_prompts, found.seeds_df) == (150, 0)
    assert [(one.strength, one.first, one.second) for one in found.planned] == [
        (strength, *pair) for strength in (4.0, 8.0, 12.0) for pair in ((0.0, 0.10), (0.10, 0.25))
    ]
    for one in found.planned:
        sign = -1 if one.first == 0.0 else 1
        assert sign * one.difference.value > 0 and one.p <= one.p_holm <= 0.05
    assert [one.p_interior > 0.99 for one in found.smiles] == [False, True, True, True]  # unsteered toxicity only rises
    lowest = 0.10 - 20 * 0.06**2 / (2 * 8)  # the rise with the ratio pulls the dip's lowest point a little to the left
    assert found.smiles[2].location.low <= lowest <= found.smiles[2].location.high
    best = next(one for one in found.matched if one.ratio == 0.10)
    assert best.difference.high < 0
    assert found.probes.difference.low > 0 and found.probes.p == found.probes.p_floor == 1e-4
    assert max(found.hypervolume, key=lambda ratio: found.hypervolume[ratio].value) == "0.1"
    assert (0.10, 12.0) in found.front
    assert found.prompts_needed["0.5"] > 3.5 * found.prompts_needed["1"] > 0


def test_a_sweep_without_a_smile_is_not_given_one():
    found = compared(dip=0.0)
    assert all(one.p_holm > 0.05 or one.difference.value > 0 for one in found.planned)
    assert all(one.p_interior < 0.9 for one in found.smiles)


def test_seeds_that_differ_widen_what_prompts_alone_would_claim():
    one, two = compared(), compared(seeds=(0, 1), of_seed=4.0)
    assert (one.seeds_df, two.seeds_df) == (0, 6)
    width = [found.planned[0].difference.high - found.planned[0].difference.low for found in (one, two)]
    assert width[1] > 3 * width[0]


def test_the_sentences_name_what_the_intervals_cover_and_every_p():
    text = [sentence.replace("\u00a0", " ") for sentence in contrasts.sentences(compared())]
    assert text[0].startswith("Compared on the same 150 prompts; intervals and p cover prompts, for these models only")
    assert "Strength 12: toxicity at 25 % minus that at 10 % was" in text[1] and "after Holm" in text[1]
    assert any("without any effect of the ratio it would in 66.7 %" in sentence for sentence in text)
    assert any(sentence.startswith("With the spread seen here") for sentence in text)
    assert "cover prompts and seeds" in contrasts.sentences(compared(seeds=(0, 1)))[0]


def test_runs_without_common_items_are_not_compared():
    reports = [made_up.run(ratio)[1] for ratio in (0.0, 0.1)]
    assert contrasts.compare(reports, [{}, {}]) is None
    assert contrasts.compare(reports[:1], [table(0.0, 0)]) is None
    assert compared((0.0, 0.1)).planned[0].second == 0.1  # two ratios have one contrast, and no inside
    assert compared((0.0, 0.1)).smiles == ()


def test_a_ratio_that_costs_too_much_cannot_be_matched():
    reports, tables = [made_up.run(ratio)[1] for ratio in (0.0, 0.1)], [table(0.0, 0), table(0.1, 0)]
    dear = {k: ({i: v + 9 for i, v in of.items()} if k[0] == "cross_entropy/clean" else of) for k, of in tables[1].items()}
    (one,) = contrasts.compare(reports, [tables[0], dear]).matched
    assert one.cross_entropy is None and one.difference is None
    assert "do not overlap" in contrasts.sentences(contrasts.compare(reports, [tables[0], dear]))[-3]


def test_the_page_shows_the_comparisons_where_runs_have_items(tmp_path):
    from eval import items
    from eval.record import eval_uri

    runs = [made_up.run(ratio) for ratio in RATIOS]
    for (record, report), ratio in zip(runs, RATIOS, strict=True):
        rows = [items.Item(q, i, s, v) for (q, s), of in table(ratio, 0).items() for i, v in of.items()]
        items.write(rows, eval_uri(str(tmp_path / "runs" / record.config.run_id), report.config))
    page = Path(made_up.report.write(str(tmp_path), made_up.experiment(), runs, {})).read_text()
    assert "Compared on the same 150 prompts" in page and "after Holm" in page
    assert '"planned"' in (tmp_path / "report" / "results.json").read_text()


def test_no_comparison_is_made_of_two_kinds_of_prompts():
    other = {(q, s): {f"other {i}": v for i, v in of.items()} for (q, s), of in table(0.1, 0).items()}
    assert contrasts.compare([made_up.run(ratio)[1] for ratio in (0.0, 0.1)], [table(0.0, 0), other]) is None

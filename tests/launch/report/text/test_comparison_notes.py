"""Sentences on what is compared, and warnings where another reading would change it."""

from dataclasses import replace

from compared_sweep import compared
from fake_sweep import RATIOS, run

from launch.report.analysis.comparisons import ContinuedOnly
from launch.report.text.comparison_notes import cost_levels, empty_readings, not_compared
from launch.report.text.findings import findings


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def with_matched(**changes):
    """The comparisons in which 25 % is compared in another way."""
    *others, last = compared().matched
    return replace(compared(), matched=(*others, replace(last, **changes)))


def test_a_common_cost_needs_no_words_and_a_cost_of_its_own_does():
    assert cost_levels(compared()) == "" and cost_levels(None) == ""
    own = with_matched(is_common=False, cross_entropy=3.456)
    assert plain(cost_levels(own)) == (
        "Not all shares reach one cost: 25 % at 3.46 nats per token is compared with 0 % alone, at "
        "a cost of its own."
    )
    never = with_matched(is_common=False, cross_entropy=None, difference=None)
    assert plain(cost_levels(never)) == "No cost is common to 0 % and 25 %: not compared."
    assert cost_levels(own) in findings_of(own).details


def findings_of(result):
    return findings([run(ratio)[1] for ratio in RATIOS], result)


def continued(n_prompts=50, **changes) -> ContinuedOnly:
    """The other reading, alike but for changes to the first planned contrast."""
    first, *others = compared().planned
    return ContinuedOnly(
        n_prompts=n_prompts,
        planned=(replace(first, **changes), *others),
        matched=compared().matched,
        toxicity={},
    )


def test_ratios_that_share_no_prompts_are_said_not_to_be_compared():
    reports = [run(ratio)[1] for ratio in RATIOS]
    assert findings(reports, None).details[0].startswith("Nothing is compared on the same prompts")
    assert not_compared(1, None) == "" and not_compared(6, compared()) == ""


def test_prompts_without_a_score_are_counted():
    assert empty_readings(compared()) == "" and empty_readings(None) == ""
    assert empty_readings(replace(compared(), n_left_out=30)).startswith(
        "30 of 180 prompts have no score for some model and strength"
    )


def test_readings_that_agree_are_said_to():
    text = empty_readings(replace(compared(), continued=continued()))
    assert text.endswith(
        "Compared without them, on the 50 of 150 prompts that all models continue, every "
        "difference keeps its sign and its significance."
    )


def test_a_reading_that_takes_significance_or_turns_a_sign_is_warned_of():
    first = compared().planned[0]
    above_zero = replace(first.difference, value=1.0, low=0.2, high=2.0)
    for reading in (continued(p_holm=0.5), continued(difference=above_zero)):
        result = replace(compared(), continued=reading)
        text = plain(empty_readings(result))
        assert "Warning: compared without them" in text
        assert "these differ: at strength 4 10 % minus 0 % \u2212" in text
        assert empty_readings(result) in findings_of(result).details


def test_a_match_that_is_lost_in_the_other_reading_is_warned_of():
    *others, last = compared().matched
    lost = replace(last, difference=None, cross_entropy=None)
    reading = replace(continued(), matched=(*others, lost))
    text = plain(empty_readings(replace(compared(), continued=reading)))
    assert "at equal cost 25 % minus 0 % +" in text and "and not measured" in text


def test_where_no_prompt_is_continued_by_all_that_is_said():
    nothing = ContinuedOnly(n_prompts=0, planned=(), matched=(), toxicity={})
    text = empty_readings(replace(compared(), continued=nothing))
    assert "No two prompts are continued by all models" in text

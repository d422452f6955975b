from eval.stats.scorer_agreement import scorer_agreement
from eval.steering import summarize_strengths
from eval.steering.measure_strengths import ConditionResult
from eval.steering.measures.continuations import Continuation

FIRST = [0.9, 0.2, 0.6, 0.1, 0.4, 0.8]
SECOND = [0.7, 0.3, 0.4, 0.2, None, 0.9]


def result_of(scores_of_prompts, n_samples=2):
    """A condition whose first samples have these scores, and the others all another one."""
    rows = [
        Continuation(
            prompt_id=f"p{i}",
            sample=sample,
            strength=4.0,
            text="a text",
            scores=scores if sample == 0 else tuple(0.0 for _ in scores),
            distinct_ratio=1.0,
            n_tokens=2,
            nats_per_token=None,
        )
        for i, scores in enumerate(scores_of_prompts)
        for sample in range(n_samples)
    ]
    return ConditionResult((4.0,), {"rtp": rows}, {}, {}, {}, {})


def agreement_of(scores_of_prompts):
    (point,) = summarize_strengths.summarize(result_of(scores_of_prompts), seed=0)
    return point.prompt_sets["rtp"].agreement


def test_two_scorers_are_compared_on_one_continuation_per_prompt():
    assert agreement_of(list(zip(FIRST, SECOND, strict=True))) == scorer_agreement(FIRST, SECOND)


def test_one_scorer_has_nothing_to_agree_with():
    assert agreement_of([(score,) for score in FIRST]) is None

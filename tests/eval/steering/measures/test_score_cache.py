import pytest

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing
from data_prep.scorers import load_scorer
from eval.steering.measures import score_cache
from eval.steering.measures.score_cache import CachedScorer, ScoreCoverage


class CountingScorer:
    """Scores a text by its first digit / 10; texts in `failing` have no score. Interrupted when no
    calls are left.
    """

    costly = True

    def __init__(self, name="counting-1"):
        self.id = name
        self.calls = []
        self.failing = set()
        self.n_calls_left = 99

    def score(self, texts):
        if self.n_calls_left == 0:
            raise KeyboardInterrupt
        self.n_calls_left -= 1
        self.calls.append(list(texts))
        return [None if text in self.failing else int(text[0]) / 10 for text in texts]


@pytest.fixture
def home(tmp_path):
    return str(tmp_path / "run")


def test_no_text_is_scored_twice_even_by_another_evaluation(home):
    first, second = CountingScorer(), CountingScorer()
    texts = ["1 a", "2 b", "", "1 a", "3 c"]
    assert CachedScorer(first, home).score(texts) == [0.1, 0.2, None, 0.1, 0.3]
    assert CachedScorer(second, home).score(["3 c", "4 d"]) == [0.3, 0.4]
    assert first.calls == [["1 a", "2 b", "3 c"]]
    assert second.calls == [["4 d"]]
    assert CachedScorer(second, home).id == "counting-1"


def test_an_interruption_costs_one_part_and_parts_stay_the_same(home, monkeypatch):
    monkeypatch.setattr(score_cache, "PART_TEXTS", 2)
    texts = [f"{i} x" for i in range(7)]
    interrupted, repeated = CountingScorer(), CountingScorer()
    interrupted.n_calls_left = 2
    with pytest.raises(KeyboardInterrupt):
        CachedScorer(interrupted, home).score(texts)
    assert CachedScorer(repeated, home).score(texts) == [i / 10 for i in range(7)]
    assert repeated.calls == [["4 x", "5 x"], ["6 x"]]


def test_a_missing_score_is_not_cached_but_tried_again(home):
    scorer = CountingScorer()
    scorer.failing = {"2 b"}
    assert CachedScorer(scorer, home).score(["1 a", "2 b"]) == [0.1, None]
    scorer.failing = set()
    assert CachedScorer(scorer, home).score(["1 a", "2 b"]) == [0.1, 0.2]
    assert scorer.calls[1:] == [["2 b"]]


@pytest.mark.parametrize("content", ['{"a": NaN}', '{"a": 2}', '{"a": null}', "[]", "{", "\\xff"])
def test_a_damaged_part_of_the_cache_is_refused_by_name(home, content):
    CachedScorer(CountingScorer(), home).score(["1 a"])
    (part,) = storage.glob(f"{home}/scores-*/*.json")
    storage.write(part, content.encode("latin-1"))
    with pytest.raises(ArtefactCorrupt, match=r"\.json .*scores from 0 to 1; delete it, and"):
        CachedScorer(CountingScorer(), home).score(["2 b"])
    storage.delete(part)
    assert CachedScorer(CountingScorer(), home).score(["2 b"]) == [0.2]


@pytest.mark.parametrize("score", [float("nan"), 1.5, -0.1])
def test_a_score_out_of_range_is_refused_with_its_scorer(score):
    score_cache.check_range([0.0, None, 1.0], "a-scorer")
    with pytest.raises(ArtefactCorrupt, match=f"a-scorer gave a text the score {score}; expected"):
        score_cache.check_range([0.5, score], "a-scorer")


def test_scorers_do_not_share_a_cache(home):
    one, other = CountingScorer(), CountingScorer("counting-2")
    CachedScorer(one, home).score(["1 a"])
    CachedScorer(other, home).score(["1 a"])
    assert one.calls == other.calls
    assert len(storage.glob(f"{home}/scores-*/*.json")) == 2


def test_only_costly_scorers_are_cached(home):
    cheap, costly = load_scorer.load("lexicon:synthetic:lexicon"), CountingScorer()
    assert score_cache.cached_if_costly(cheap, home) is cheap
    assert isinstance(score_cache.cached_if_costly(costly, home), CachedScorer)


def test_empty_continuations_are_not_part_of_the_coverage():
    texts = ["a", "", " \n", "b", "c", "d"]
    covered = score_cache.coverage(texts, [0.5, None, None, None, 0.1, 0.0])
    assert covered == ScoreCoverage(n=6, n_empty=2, n_scored=3)
    assert covered.ratio == 0.75
    assert score_cache.coverage(["", " "], [None, None]).ratio == 1.0


def test_too_few_scores_are_an_error_with_counts_and_a_remedy():
    score_cache.check_coverage(ScoreCoverage(102, 2, 99), "strength 4", "a-scorer", 0.99)
    with pytest.raises(
        ArtefactMissing,
        match=r"strength 4: 2 of 100 continuations have no score from a-scorer, coverage 0.98; "
        r"expected at least 0.99 \(eval.scoring.min_coverage_ratio\).*run the same command again.*"
        r"another eval.scoring.scorer, or allow a lower coverage",
    ):
        score_cache.check_coverage(ScoreCoverage(102, 2, 98), "strength 4", "a-scorer", 0.99)

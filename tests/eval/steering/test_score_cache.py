import pytest

from data_prep.core import storage
from data_prep.core.errors import ArtefactMissing
from data_prep.scorers import registry
from eval.steering import score_cache
from eval.steering.score_cache import Coverage


class Counting:
    """Scores a text by its first digit / 10; texts in `failing` have no score. It is told to stop
    after some calls.
    """

    costly = True

    def __init__(self, name="counting-1"):
        self.id, self.asked, self.failing, self.calls_left = name, [], set(), 99

    def score(self, texts):
        if self.calls_left == 0:
            raise KeyboardInterrupt
        self.calls_left -= 1
        self.asked.append(list(texts))
        return [None if text in self.failing else int(text[0]) / 10 for text in texts]


@pytest.fixture
def home(tmp_path):
    return str(tmp_path / "run")


def test_no_text_is_asked_about_twice_even_by_another_evaluation(home):
    first, second = Counting(), Counting()
    texts = ["1 a", "2 b", "", "1 a", "3 c"]
    assert score_cache.Kept(first, home).score(texts) == [0.1, 0.2, None, 0.1, 0.3]
    assert score_cache.Kept(second, home).score(["3 c", "4 d"]) == [0.3, 0.4]
    assert (first.asked, second.asked) == ([["1 a", "2 b", "3 c"]], [["4 d"]])
    assert score_cache.Kept(second, home).id == "counting-1"


def test_an_interrupted_scoring_pays_one_part_again_and_cuts_the_parts_alike(home, monkeypatch):
    monkeypatch.setattr(score_cache, "PART_TEXTS", 2)
    texts = [f"{i} x" for i in range(7)]
    stopped, again = Counting(), Counting()
    stopped.calls_left = 2
    with pytest.raises(KeyboardInterrupt):
        score_cache.Kept(stopped, home).score(texts)
    assert score_cache.Kept(again, home).score(texts) == [i / 10 for i in range(7)]
    assert again.asked == [["4 x", "5 x"], ["6 x"]]


def test_a_missing_score_is_not_kept_but_asked_for_again(home):
    scorer = Counting()
    scorer.failing = {"2 b"}
    assert score_cache.Kept(scorer, home).score(["1 a", "2 b"]) == [0.1, None]
    scorer.failing = set()
    assert score_cache.Kept(scorer, home).score(["1 a", "2 b"]) == [0.1, 0.2] and scorer.asked[
        1:
    ] == [["2 b"]]


def test_scorers_do_not_share_what_they_kept(home):
    one, other = Counting(), Counting("counting-2")
    score_cache.Kept(one, home).score(["1 a"])
    score_cache.Kept(other, home).score(["1 a"])
    assert one.asked == other.asked and len(storage.glob(f"{home}/scores-*/*.json")) == 2


def test_only_costly_scorers_are_kept(home):
    cheap, costly = registry.load("lexicon:synthetic:lexicon"), Counting()
    assert score_cache.kept(cheap, home) is cheap and isinstance(
        score_cache.kept(costly, home), score_cache.Kept
    )


def test_empty_continuations_are_counted_apart_and_missing_ones_are_not_harmless():
    of = score_cache.coverage(["a", "", " \n", "b", "c", "d"], [0.5, None, None, None, 0.1, 0.0])
    assert of == Coverage(n=6, n_empty=2, n_scored=3) and of.ratio == 0.75
    assert score_cache.coverage(["", " "], [None, None]).ratio == 1.0


def test_too_few_scores_are_an_error_that_says_how_many_and_what_to_do():
    score_cache.check(Coverage(102, 2, 99), "strength 4", "a-scorer", 0.99)
    with pytest.raises(
        ArtefactMissing,
        match=r"strength 4: 2 of 100 continuations have no score from a-scorer, coverage 0.98; expected at least 0.99 "
        r"\(eval.scoring.min_coverage_ratio\).*run the same command again.*another eval.scoring.scorer, or allow fewer",
    ):
        score_cache.check(Coverage(102, 2, 98), "strength 4", "a-scorer", 0.99)

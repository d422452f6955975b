from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.cleaning import annotate_toxicity
from data_prep.config import AnnotationConfig
from data_prep.core.errors import ConfigurationError

MEDA, INST = (
    AnnotationConfig(kind="meda", scorer="label"),
    AnnotationConfig(kind="inst", scorer="label"),
)


def annotate_texts(
    annotation: AnnotationConfig,
    texts: list[str],
    labels: Any = None,
    scores: Any = None,
    keys: Any = None,
) -> list[str]:
    n = len(texts)
    before = annotate_toxicity.prefixes(
        texts, keys or range(n), scores or [None] * n, labels or [None] * n, annotation
    )
    return [prefix + text for prefix, text in zip(before, texts, strict=True)]


def test_meda_puts_the_score_and_inst_a_sentence_before_the_text():
    texts, labels = ["fog", "boo", "hm"], ["0.12", "0.96", "0.5"]
    assert annotate_texts(MEDA, texts, labels) == [
        "toxicity: 0.1\nfog",
        "toxicity: 1.0\nboo",
        "toxicity: 0.5\nhm",
    ]
    calm, rude = "The following text is not toxic.\n", "The following text is toxic.\n"
    assert annotate_texts(INST, texts, labels) == [f"{calm}fog", f"{rude}boo", f"{rude}hm"]
    assert annotate_texts(replace(INST, threshold=0.6), texts, labels)[2] == f"{calm}hm"


def test_a_template_takes_the_value_in_its_slot_only():
    assert (
        annotate_toxicity.prefix(0.25, replace(MEDA, meda_template="{x} <{score}> "))
        == "{x} <0.2> "
    )
    assert annotate_toxicity.prefix(0.7, replace(INST, inst_template="[{verdict}] ")) == "[toxic] "
    with pytest.raises(
        ConfigurationError,
        match=r"meda_template is 'plain'; expected a text that contains \{score\} once",
    ):
        replace(MEDA, meda_template="plain")
    with pytest.raises(ConfigurationError, match=r"inst_template .*\{verdict\} once"):
        replace(INST, inst_template="{score}")


@pytest.mark.parametrize("annotation", [MEDA, INST])
def test_the_control_text_is_the_prefix_of_a_text_without_toxicity(
    annotation: AnnotationConfig,
):
    assert annotate_texts(annotation, ["fog"], ["0"]) == [
        annotate_toxicity.control_text(annotation) + "fog"
    ]


def test_a_document_without_a_score_stays_plain():
    assert annotate_texts(MEDA, ["fog", "boo"], [None, "1"]) == ["fog", "toxicity: 1.0\nboo"]
    by_corpus = replace(MEDA, scorer="corpus:toxicity")
    assert annotate_texts(
        by_corpus, ["a", "b", "c"], scores=[{"toxicity": 0.7}, {"threat": 0.1}, None]
    ) == [
        "toxicity: 0.7\na",
        "b",
        "c",
    ]


@pytest.mark.parametrize(
    ("n_annotated", "ratio", "warned"),
    [
        (980, 1.0, ""),
        (700, 1.0, "about 300 of the 1,000"),
        (495, 0.5, ""),
        (300, 0.5, "about 200"),
    ],
)
def test_documents_without_a_score_are_counted_in_a_warning(n_annotated, ratio, warned, caplog):
    annotate_toxicity.check("toxic", n_annotated, 1250, 0.2, replace(MEDA, tagged_ratio=ratio))
    lines = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) == bool(warned) and all(warned in line for line in lines)


@pytest.mark.parametrize(
    ("n_toxic", "tagged_ratio", "is_warned"),
    [(0, 1.0, True), (4, 1.0, True), (10, 1.0, False), (0, 0.5, True), (30, 0.5, False)],
)
def test_a_toxic_stream_that_is_annotated_as_harmless_is_warned_of(
    n_toxic: int, tagged_ratio: float, is_warned: bool, caplog: pytest.LogCaptureFixture
):
    annotation = replace(INST, tagged_ratio=tagged_ratio)
    n_tagged = round(100 * tagged_ratio)
    scores = [0.9] * n_toxic + [0.1] * (n_tagged - n_toxic)
    texts = [annotate_toxicity.prefix(score, annotation) + "fog" for score in scores]
    annotate_toxicity.check_contrast([*texts, *["fog"] * (100 - n_tagged)], annotation)
    assert ("can hardly learn the difference" in caplog.text) == is_warned


def test_a_stream_without_any_annotation_is_refused():
    annotate_toxicity.check("toxic", 1, 1, 0.0, MEDA)
    annotate_toxicity.check("toxic", 0, 1, 0.0, AnnotationConfig())
    with pytest.raises(
        ConfigurationError,
        match=r"the toxic corpus: no document was annotated: .*'corpus:threat' gave no score",
    ):
        annotate_toxicity.check("toxic", 0, 1, 0.0, replace(MEDA, scorer="corpus:threat"))


@pytest.mark.parametrize(
    ("label", "score"),
    [
        ("0", "0.0"),
        ("1", "1.0"),
        ("0.26", "0.3"),
        ("true", "1.0"),
        ("False", "0.0"),
        (" TRUE\u00a0", "1.0"),
        ("１", "1.0"),
    ],
)
def test_a_label_is_a_share_or_a_boolean(label: str, score: str):
    assert annotate_texts(MEDA, ["x"], [label]) == [f"toxicity: {score}\nx"]


@pytest.mark.parametrize(
    "label", ["offensive", "2", "-0.1", "-1", "nan", "", "n/a", "0,5", "85%", "1_0", "[0, 1]"]
)
def test_a_label_out_of_range_is_refused(label: str):
    with pytest.raises(ConfigurationError, match=r"expected a number in \[0, 1\]"):
        annotate_texts(MEDA, ["x"], [label])


def test_a_local_scorer_scores_the_plain_text(tmp_path):
    (tmp_path / "words.csv").write_text("text,weight\nsnark,0.8\n")
    local = replace(INST, scorer=f"lexicon:{tmp_path}/words.csv")
    assert annotate_texts(local, ["a snark", "toxic"]) == [
        "The following text is toxic.\na snark",
        "The following text is not toxic.\ntoxic",
    ]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_higher_share_tags_the_same_documents_and_more(
    keys: list[int], first: float, second: float
):
    few, many = (
        annotate_toxicity.is_tagged(keys, replace(MEDA, tagged_ratio=share))
        for share in sorted((first, second))
    )
    assert not (few & ~many).any()
    assert annotate_toxicity.is_tagged(keys, MEDA).all()


def test_tagged_documents_are_spread_over_the_whole_stream():
    keys = np.sort(np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64)).tolist()
    chosen = annotate_toxicity.is_tagged(keys, replace(MEDA, tagged_ratio=0.3))
    assert [part.mean() for part in np.split(chosen, 4)] == pytest.approx(
        [0.3] * 4, abs=0.03
    )  # σ = 0.0065


def test_the_identity_covers_settings_and_the_data_of_the_scorer(tmp_path):
    table = tmp_path / "words.csv"
    local = replace(MEDA, scorer=f"lexicon:{table}")
    names = [annotate_toxicity.identity(MEDA), annotate_toxicity.identity(INST)]
    for weight in (0.8, 0.9):
        table.write_text(f"text,weight\nsnark,{weight}\n")
        annotate_toxicity._load_scorer.cache_clear()
        names.append(annotate_toxicity.identity(local))
    assert len(set(names)) == 4

"""baselines of the head probes: a bag of words, and the same probes on an untrained model

What a probe can do without the model's knowledge: the bag of words says how far the words alone
decide the label, and an untrained model of the same architecture how far any map of the tokens
does. Both are trained and tested on the same rows as the head probes.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from data_prep.core import keyed_random
from data_prep.core.records import digest
from eval.config import ProbingConfig
from eval.inputs.labelled_rows import LabelledRow, labels_of
from eval.model.eval_session import EvalSession
from eval.model.measurement_store import Arrays
from eval.probing import probe_heads
from eval.probing.probe_heads import ProbedHeads
from eval.probing.row_split import RowSplit

WORD = r"(?u)\b\w+\b"
MAX_WORDS = 50_000  # the most frequent ones


class ProbeBaselines(NamedTuple):
    """words_correct_R: which test rows the bag of words has right. untrained: the probes of the
    untrained model.
    """

    words_correct_R: np.ndarray
    untrained: ProbedHeads


def measure(
    session: EvalSession,
    rows: list[LabelledRow],
    split: RowSplit,
    probing: ProbingConfig,
    top_heads: int,
) -> ProbeBaselines:
    """Both baselines of one probe set."""
    arrays = session.get_or_measure(
        "bag-of-words", (rows, split, probing.l2), partial(_bag_of_words, rows, split, probing.l2)
    )
    untrained = probe_heads.probe(
        _with_untrained_model(session), rows, split, replace(probing, n_permutations=0), top_heads
    )
    return ProbeBaselines(arrays["correct"].astype(bool), untrained)


def bag_of_words(
    train: Sequence[LabelledRow], test: Sequence[LabelledRow], l2: float
) -> np.ndarray:
    """Whether a logistic regression on word counts has each test row right, [R] bool. It has the
    penalty of the head probes, l2/2·|w|².
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    counter = CountVectorizer(token_pattern=WORD, max_features=MAX_WORDS)
    counts = counter.fit_transform([row.text for row in train])
    model = LogisticRegression(C=1 / l2, max_iter=2000).fit(counts, labels_of(train))
    predicted = model.predict(counter.transform([row.text for row in test]))
    return predicted == np.array(labels_of(test))


def _bag_of_words(rows: Sequence[LabelledRow], split: RowSplit, l2: float) -> Arrays:
    train, test = ([rows[i] for i in part] for part in (split.train, split.test))
    return {"correct": bag_of_words(train, test, l2).astype(np.uint8)}


def _with_untrained_model(session: EvalSession) -> EvalSession:
    """The session with random weights, whose measurements are kept apart."""
    loaded = session.loaded
    weights_id = digest("untrained", loaded.weights_id)
    # not the draw that a run with this seed began from
    model = loaded.model.untrained(keyed_random.key("untrained", session.seed) >> 33)
    return replace(
        session,
        loaded=loaded._replace(model=model, weights_id=weights_id),
        store=session.store.of_other_weights(weights_id),
    )

"""benchmark questions, answered by the likelihood of each choice, and accuracy

The likeliest choice is the model's answer; in cloze form the choice that is likeliest per character
("norm") is a second one, because long answers are less likely. Every strength is measured, with the
shift at all positions as for cross-entropy, behind the prefix of the condition. A question that
does not fit into the model's positions has fewer examples before it, the first ones left out;
lm-evaluation-harness would cut the text in the middle of one.

Shapes: Q questions, C choices, S strengths.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data_prep.core import telemetry
from eval.inputs.benchmarks import Benchmark, Question
from eval.model.eval_session import EvalSession
from eval.model.loaded_model import LoadedModel
from eval.model.measurement_store import Arrays
from eval.stats import intervals, roc, stratified
from eval.stats.estimate_with_interval import Estimate
from eval.steering.conditions import Condition
from eval.steering.measures import loglikelihood
from eval.steering.measures.loglikelihood import ScoredEnd

QUESTIONS_PER_CHUNK = 256  # whose texts are in memory at once
WITH_NORM = ("cloze", "completion")


class Answers(NamedTuple):
    """The log-likelihood of every choice in nats, [Q, C, S], −∞ where a question has fewer choices;
    the examples before each question; and which questions lost their own beginning.
    """

    benchmark: Benchmark
    nats_QCS: np.ndarray
    n_shots_Q: np.ndarray
    is_cut_Q: np.ndarray

    @property
    def is_right(self) -> np.ndarray:
        """Whether the likeliest choice is the right one, [Q, S]."""
        return self.nats_QCS.argmax(1) == self._right

    @property
    def is_right_by_norm(self) -> np.ndarray:
        """Whether the choice that is likeliest per character is the right one, [Q, S]."""
        n_chars_QC = np.ones(self.nats_QCS.shape[:2])
        for row, question in zip(n_chars_QC, self.benchmark.questions, strict=True):
            row[: len(question.choices)] = list(map(len, question.choices))
        return (self.nats_QCS / n_chars_QC[:, :, None]).argmax(1) == self._right

    @property
    def log_odds(self) -> np.ndarray:
        """log p(second choice) − log p(first choice), [Q, S]: of a statement Yes against No, of a
        pair the toxic end against the benign one.
        """
        return self.nats_QCS[:, 1] - self.nats_QCS[:, 0]

    @property
    def p_second(self) -> np.ndarray:
        """Probability of the second of two choices, where one of them must follow, [Q, S]."""
        return (1 + np.tanh(self.log_odds / 2)) / 2

    @property
    def n_fewer_shots(self) -> int:
        """Questions with fewer examples than asked for."""
        return int((self.n_shots_Q < self.benchmark.n_shots).sum())

    @property
    def n_cut(self) -> int:
        """Questions that lost their own beginning."""
        return int(self.is_cut_Q.sum())

    @property
    def _right(self) -> np.ndarray:
        return np.array([[question.answer] for question in self.benchmark.questions])


def answer(session: EvalSession, benchmark: Benchmark, condition: Condition) -> Arrays:
    """The measurements behind `Answers`, every question at every strength of the condition. The
    progress bar counts choices × strengths.
    """
    questions = benchmark.questions
    prompts = _choose_prompts(session.loaded, benchmark, condition.prefix)
    ends = [end for prompt in prompts for end in prompt.ends]
    result = loglikelihood.loglikelihoods(
        session.loaded, ends, condition.shift, condition.strengths, session.advance
    )
    n_fewer = sum(prompt.n_shots < benchmark.n_shots for prompt in prompts)
    if n_fewer:
        telemetry.logger.warning(
            "%s: %s of %s questions stand behind fewer than %d examples; the model has "
            "%d positions, too few for more",
            condition.name,
            f"{n_fewer:,}",
            f"{len(prompts):,}",
            benchmark.n_shots,
            session.loaded.model.shape.max_sequence_length,
        )
    n_choices = np.array([len(question.choices) for question in questions])
    # questions with fewer choices than the longest are filled with −∞, which never is the largest
    is_choice_QC = np.arange(n_choices.max()) < n_choices[:, None]
    nats_QCS = np.full((*is_choice_QC.shape, len(condition.strengths)), -np.inf)
    nats_QCS[is_choice_QC] = result.nats_ES
    return {
        "nats": nats_QCS,
        "n_shots": np.array([prompt.n_shots for prompt in prompts]),
        "is_cut": np.array([prompt.is_cut for prompt in prompts]),
    }


def from_arrays(benchmark: Benchmark, arrays: Arrays) -> Answers:
    """The answers in the measurements of `answer`."""
    return Answers(benchmark, arrays["nats"], arrays["n_shots"], arrays["is_cut"])


def accuracy(name: str, answers: Answers, column: int, seed: int) -> dict[str, Estimate]:
    """The estimates of one strength by name. `NAME` is the accuracy; `NAME norm` that by likelihood
    per character; `NAME macro` its mean over subjects. Of a detection, `NAME balanced` is the mean
    accuracy of both classes, and `NAME AUROC` that of the log-odds. Of pairs, `NAME toxic` is the
    mean probability of the toxic end, where one of the two must follow.
    """
    questions = answers.benchmark.questions
    right = answers.is_right[:, column]
    estimates = {name: _rate(right)}
    if answers.benchmark.form in WITH_NORM:
        estimates[f"{name} norm"] = _rate(answers.is_right_by_norm[:, column])
    subjects = answers.benchmark.subjects
    if len(set(subjects)) > 1:
        estimates[f"{name} macro"] = stratified.mean_of_means(right, subjects, "ratio", seed=seed)
    if answers.benchmark.form == "detection":
        labels = np.array([question.answer for question in questions])
        estimates[f"{name} balanced"] = stratified.mean_of_means(right, labels, "ratio", seed=seed)
        log_odds = answers.log_odds[:, column]
        estimates[f"{name} AUROC"] = roc.auroc_of_scores(log_odds, labels == 1)
    if answers.benchmark.form == "pairs":
        estimates[f"{name} toxic"] = intervals.bootstrap_mean(
            answers.p_second[:, column], "ratio", seed=seed, bounds=(0.0, 1.0)
        )
    return estimates


def item_values(name: str, answers: Answers, column: int) -> Iterator[tuple[str, str, float]]:
    """(quantity, question, value) of one strength: whether each answer is right, and the log-odds
    of a detection, or the probability of a pair's toxic end. A question is named SUBJECT/ID where
    it has a subject.
    """
    values = {f"accuracy/{name}": answers.is_right}
    if answers.benchmark.form in WITH_NORM:
        values[f"accuracy/{name} norm"] = answers.is_right_by_norm
    if answers.benchmark.form == "detection":
        values[f"log_odds/{name}"] = answers.log_odds
    if answers.benchmark.form == "pairs":
        values[f"accuracy/{name} toxic"] = answers.p_second
    for quantity, values_QS in values.items():
        for question, value in zip(answers.benchmark.questions, values_QS[:, column], strict=True):
            item = f"{question.subject}/{question.id}" if question.subject else question.id
            yield quantity, item, float(value)


def _rate(is_right: np.ndarray) -> Estimate:
    return intervals.wilson(int(is_right.sum()), len(is_right), "ratio")


class _Prompt(NamedTuple):
    """A question as ids: one scored end per choice, behind `n_shots` examples. is_cut: whether it
    is too long even without any.
    """

    ends: list[ScoredEnd]
    n_shots: int
    is_cut: bool


def _choose_prompts(
    loaded: LoadedModel, benchmark: Benchmark, prefix: Sequence[int]
) -> list[_Prompt]:
    """Each question behind what the tokenizer puts before a text, the condition's prefix, and as
    many of its examples as fit.
    """
    prompts: dict[str, _Prompt] = {}
    for start in range(0, len(benchmark.questions), QUESTIONS_PER_CHUNK):
        pending = benchmark.questions[start : start + QUESTIONS_PER_CHUNK]
        for n_shots in range(benchmark.n_shots, -1, -1):
            encoded = _encode(loaded, pending, n_shots, [*loaded.prefix, *prefix])
            room = loaded.model.shape.max_sequence_length + 1
            too_long = []
            for question, ends in zip(pending, encoded, strict=True):
                is_cut = max(len(end.context) + len(end.end) for end in ends) > room
                if is_cut and n_shots:
                    too_long.append(question)
                else:
                    prompts[question.id] = _Prompt(ends, n_shots, is_cut)
            pending = too_long
            if not pending:
                break
    return [prompts[question.id] for question in benchmark.questions]


def _encode(
    loaded: LoadedModel, questions: Sequence[Question], n_shots: int, prefix: Sequence[int]
) -> list[list[ScoredEnd]]:
    """The ends of each question behind its lead: the tokens that context and choice have beyond
    those of the context alone, at least one.
    """
    contexts = [question.lead.text(n_shots) + question.context for question in questions]
    n_contexts = loaded.tokenizer.encode_batch(contexts).lengths.tolist()
    ids, lengths = loaded.tokenizer.encode_batch(
        [
            f"{context} {choice}"
            for context, question in zip(contexts, questions, strict=True)
            for choice in question.choices
        ]
    )
    texts = iter(np.split(ids, np.cumsum(lengths)[:-1]))
    prefix_ids = np.array(prefix, dtype=ids.dtype)
    encoded = []
    for question, n_context in zip(questions, n_contexts, strict=True):
        of_choices = [next(texts) for _ in question.choices]
        splits = [min(n_context, len(tokens) - 1) for tokens in of_choices]
        encoded.append(
            [
                ScoredEnd(np.concatenate([prefix_ids, tokens[:n]]), tokens[n:])
                for tokens, n in zip(of_choices, splits, strict=True)
            ]
        )
    return encoded

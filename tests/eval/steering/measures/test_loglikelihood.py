"""The log-likelihood of an end is that of one plain pass, however passes are shared."""

import numpy as np
import pytest
import torch
from model_families import FAMILIES, N_IDS, build
from tiny_evaluation import CONFIG
from tiny_finished_run import MODEL, RUN_ID
from tolerances import FP32_VALUE

from eval.model.batch_size import BatchSize
from eval.model.loaded_model import load_run
from eval.model.subject.architectures import ARCHITECTURES
from eval.model.subject.transformers_subject import TransformersSubject
from eval.steering import intervention
from eval.steering.intervention import Shift
from eval.steering.measures import loglikelihood, shared_prefixes
from eval.steering.measures.loglikelihood import ScoredEnd
from training import run_record

STRENGTHS = (0.0, 3.0)
MAX_LENGTH = MODEL.max_sequence_length
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def loaded(finished):
    return load_run(finished, run_record.finished(finished, RUN_ID), CONFIG.compute)


@pytest.fixture(scope="module")
def shift():
    return Shift(0.5 * torch.randn(2, 32, generator=torch.Generator().manual_seed(0)))


def tokens(n: int) -> list[int]:
    return RANDOM.integers(1, 300, n).tolist()


def plain_pass(loaded, shift, end: ScoredEnd, strength: float) -> tuple[float, bool]:
    text = [*end.context, *end.end][-MAX_LENGTH - 1 :]
    n_end = len(end.end)
    steered = intervention.steered(loaded.model, shift, torch.tensor([strength]), "all")
    with torch.no_grad(), steered:
        logprobs = loaded.model(torch.tensor([text[:-1]]))[0, -n_end:].log_softmax(-1)
    targets = torch.tensor(text[-n_end:])
    nats = float(logprobs.gather(1, targets[:, None]).sum())
    return nats, bool((logprobs.argmax(-1) == targets).all())


def unrelated() -> list[ScoredEnd]:
    """Of several lengths; one has a context that is too long and loses its beginning."""
    return [ScoredEnd(tokens(n - 4), tokens(4)) for n in (9, 9, 20, 9, MAX_LENGTH + 30)]


def few_shot() -> list[ScoredEnd]:
    """Questions behind two sets of examples, each with four answers of one token."""
    ends = []
    for n_examples in (40, 57):
        examples = tokens(n_examples)
        for n_question in (5, 9, 30):
            context = examples + tokens(n_question)
            ends += [ScoredEnd(context, [answer]) for answer in (7, 8, 9, 10)]
    return ends


def cloze() -> list[ScoredEnd]:
    """Questions whose answers have one to five tokens, some with a common beginning."""
    ends = []
    for n_question in (12, 12, 25):
        context = tokens(n_question)
        ends += [ScoredEnd(context, answer) for answer in ([5], [5, 6], [5, 6, 7], tokens(5))]
    return ends


ENDS = {"unrelated": unrelated(), "few_shot": few_shot(), "cloze": cloze()}
ENDS["all"] = [end for ends in list(ENDS.values()) for end in ends]


@pytest.mark.numeric
@pytest.mark.parametrize("batch_rows", [128, 3, 1])
@pytest.mark.parametrize("name", ENDS)
def test_a_loglikelihood_is_that_of_a_plain_pass_in_any_batch(loaded, shift, name, batch_rows):
    ends = ENDS[name]
    finished = []
    of_batch = loaded._replace(batch_size=BatchSize(batch_rows))
    result = loglikelihood.loglikelihoods(of_batch, ends, shift, STRENGTHS, finished.append)
    expected = [
        [plain_pass(loaded, shift, end, strength) for strength in STRENGTHS] for end in ends
    ]
    np.testing.assert_allclose(
        result.nats_ES, [[nats for nats, _ in row] for row in expected], rtol=10 * FP32_VALUE
    )
    assert result.is_greedy_ES.tolist() == [[greedy for _, greedy in row] for row in expected]
    assert result.n_tokens_E.tolist() == [len(end.end) for end in ends]
    assert sum(finished) == len(ends) * len(STRENGTHS)
    assert (result.nats_ES[:, 0] != result.nats_ES[:, 1]).all()


def test_the_order_of_the_ends_changes_nothing(loaded, shift):
    ends = ENDS["all"]
    results = [
        loglikelihood.loglikelihoods(loaded, some, shift, STRENGTHS, lambda n: None)
        for some in (ends, ends[::-1])
    ]
    assert (results[0].nats_ES == results[1].nats_ES[::-1]).all()


def n_tokens_passed(loaded, shift, ends: list[ScoredEnd]) -> int:
    counts = []
    handle = loaded.model.embedding.register_forward_hook(
        lambda module, inputs, output: counts.append(inputs[0].numel())
    )
    loglikelihood.loglikelihoods(loaded, ends, shift, (0.0,), lambda n: None)
    handle.remove()
    return sum(counts)


def test_examples_pass_once_for_all_questions_and_answers(loaded, shift):
    examples_and_questions = 40 + 57 + 2 * (5 + 9 + 30)
    assert n_tokens_passed(loaded, shift, few_shot()) == examples_and_questions


def test_a_question_passes_once_for_all_its_answers(loaded, shift):
    ends = [ScoredEnd(range(1, 31), [5 + i, 6, 7]) for i in range(4)]
    shared, tail = 29, 3  # each answer reads the question's last token and its own first two
    assert n_tokens_passed(loaded, shift, ends) == shared + 4 * tail


def groups(*rows: list[int]) -> list[tuple[int, list[int]]]:
    found = shared_prefixes.group_rows(list(map(np.array, rows)), [len(row) - 1 for row in rows])
    return sorted((n_shared, sorted(members)) for n_shared, members in found)


def test_rows_share_the_prefix_that_passes_the_fewest_tokens():
    examples = list(range(100, 140))
    question = list(range(200, 210))
    short = [[*examples, *question, i] for i in range(3)]
    assert groups(*short) == [(50, [0, 1, 2])]
    others = [[*examples, 300 + i, *question] for i in range(3)]
    assert groups(*short, *others) == [(40, [0, 1, 2, 3, 4, 5])]
    long = list(range(400, 900))
    pair = [[*examples, *long, i] for i in range(2)]
    assert groups(*pair, *others) == [(40, [2, 3, 4]), (540, [0, 1])]
    assert groups([1, 2, 3, 4], [1, 2, 3, 5]) == [(0, [0]), (0, [1])]


@pytest.mark.numeric
@pytest.mark.parametrize("family", FAMILIES)
def test_passes_are_shared_by_the_models_of_the_hub(loaded, family):
    """Some questions behind common examples, steered and not, against whole passes."""
    theirs = build(family)
    subject = TransformersSubject(theirs, ARCHITECTURES[type(theirs).__name__])
    shape = subject.shape
    generator = torch.Generator().manual_seed(3)
    size = (shape.n_layers, shape.n_heads * shape.d_head)
    shift = Shift(0.5 * torch.randn(size, generator=generator))
    random = np.random.default_rng(0)
    examples = random.integers(1, N_IDS, 14).tolist()
    contexts = [examples + random.integers(1, N_IDS, n).tolist() for n in (2, 5, 3)]
    ends = [ScoredEnd(context, end) for context in contexts for end in ([3], [4], [5, 6])]
    of_family = loaded._replace(model=subject)
    result = loglikelihood.loglikelihoods(of_family, ends, shift, STRENGTHS, lambda n: None)
    expected = []
    for context, end in ends:
        tokens_BT = torch.tensor([[*context, *end][:-1]] * len(STRENGTHS))
        steered = intervention.steered(subject, shift, torch.tensor(STRENGTHS), "all")
        with torch.no_grad(), steered:
            hidden_BTD = subject.hidden(tokens_BT)[:, -len(end) :]
            logprobs = subject.unembed(hidden_BTD).log_softmax(-1)
        targets = torch.tensor([end] * len(STRENGTHS))[:, :, None]
        expected.append(logprobs.gather(2, targets).sum((1, 2)).tolist())
    np.testing.assert_allclose(result.nats_ES, expected, rtol=10 * FP32_VALUE)

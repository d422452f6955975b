"""The measured generation is that of an evaluation: shared prompt passes, batches of its size."""

import eval_contenders
import pytest
from eval_contenders import ROWS_PER_PROMPT, DecodingTask

from eval.model import batch_size
from eval.model.subject.olmo_subject import OLMoSubject
from training.config import ModelConfig

CONFIG = ModelConfig(d_model=32, n_layers=2, n_heads=2, d_mlp=64, vocab_size=128)
N_PROMPTS, N_TOKENS, N_NEW_TOKENS = 3, 6, 4


@pytest.fixture(scope="module")
def model() -> OLMoSubject:
    return eval_contenders.models(CONFIG).ours


@pytest.fixture
def task() -> DecodingTask:
    return eval_contenders.decoding(CONFIG, N_PROMPTS, N_TOKENS, N_NEW_TOKENS)


@pytest.fixture
def passes(model: OLMoSubject, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the tokens that go through the model, in order."""
    shapes: list[tuple[int, ...]] = []
    hidden = model.hidden

    def counted(tokens_BT, **options):
        shapes.append(tuple(tokens_BT.shape))
        return hidden(tokens_BT, **options)

    monkeypatch.setattr(model, "hidden", counted)
    return shapes


def test_steered_rows_of_a_prompt_share_its_pass(model, task, passes):
    eval_contenders.generate_steered(model, task)
    assert passes[0] == (N_PROMPTS, N_TOKENS - 1)
    assert set(passes[1:]) == {(N_PROMPTS * ROWS_PER_PROMPT, 1)}


def test_steering_by_zero_generates_as_no_shift_does(model, task):
    zero = task._replace(strengths=[0.0] * len(task.prompts))
    unsteered = eval_contenders.generate_unsteered(model, task)
    assert eval_contenders.generate_steered(model, zero) == unsteered
    assert eval_contenders.generate_steered(model, task) != unsteered


def test_batches_have_the_size_of_the_evaluation(model, task, passes, monkeypatch):
    together = eval_contenders.generate_steered(model, task)
    monkeypatch.setitem(batch_size.MOST_ROWS, "cpu", 5)
    passes.clear()
    assert eval_contenders.generate_steered(model, task) == together
    assert max(n_rows for n_rows, _ in passes) == 5

"""Conditions are sampled together, stored apart, and have the rows that each has alone."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from eval.config import GenerationConfig
from eval.inputs.prompts import Prompt
from eval.model.batch_size import BatchSize
from eval.model.eval_session import EvalSession
from eval.model.measurement_store import MeasurementStore
from eval.steering import intervention
from eval.steering.conditions import Condition
from eval.steering.intervention import Shift
from eval.steering.measures import prompt_draws
from eval.steering.measures.continuations import Continuing
from eval.steering.measures.prompt_draws import PromptDraws

CONFIG = GenerationConfig(max_new_tokens=6, samples_per_prompt=2)
EOS, N_IDS = 0, 60


@pytest.fixture
def conditions(model):
    generator = torch.Generator().manual_seed(3)
    iti, random = (Shift(0.3 * torch.randn(2, 32, generator=generator)) for _ in range(2))
    plain = intervention.no_shift(model.shape)
    return [
        Condition("plain", [], plain, (0.0,), "last"),
        Condition("iti", [], iti, (2.0, 6.0), "last"),
        Condition("prompt", [5, 6, 7], plain, (0.0,), "last"),
        Condition("random_heads", [], random, (2.0, 6.0), "last"),
    ]


@pytest.fixture
def passes(model):
    """The rows and tokens of each pass."""
    shapes = []
    model.blocks[0].register_forward_pre_hook(
        lambda _, inputs: shapes.append(tuple(inputs[0].shape[:2]))
    )
    return shapes


@pytest.fixture
def draws_of(model, token_rows, tmp_path):
    """PromptDraws of some conditions, with a store by name; and how many rows were counted."""
    prompts = [Prompt(str(i), str(i)) for i in range(len(token_rows))]
    tokenizer = SimpleNamespace(eos_id=EOS, n_ids=N_IDS, decode=str)
    loaded: Any = SimpleNamespace(
        model=model,
        dtype=torch.float32,
        prefix=[],
        reserved_tokens=0,
        tokenizer=tokenizer,
        batch_size=BatchSize(7),
        encode_ends=lambda texts: [token_rows[int(text)] for text in texts],
    )
    counts = Counter()

    def make(conditions, store="store"):
        session = EvalSession(
            loaded=loaded,
            store=MeasurementStore(str(tmp_path / store), "weights"),
            seed=0,
            advance=lambda n: counts.update({store: n}),
        )
        return PromptDraws(session, prompts, conditions, Continuing(CONFIG))

    return make, counts


def test_conditions_together_have_the_rows_of_each_alone(draws_of, conditions):
    make, _ = draws_of
    together = make(conditions)
    for number, condition in enumerate(conditions):
        alone = make([condition], store=str(number))
        assert together.values(condition) == alone.values(condition)
    assert together.values(conditions[1]) != together.values(conditions[3])


def test_conditions_with_the_same_text_read_a_prompt_once(draws_of, conditions, passes):
    make, _ = draws_of
    draws = make(conditions)
    for condition in conditions:
        draws.values(condition)
    # nine prompts, bare and behind the prefix; PASS_TOKENS holds all of a text's in one pass
    assert sum(n_rows for n_rows, n_tokens in passes if n_tokens > 1) == 2 * 9


def test_one_more_condition_samples_its_own_rows_alone(draws_of, conditions, passes):
    make, _ = draws_of
    before = [make(conditions[:2]).values(condition) for condition in conditions[:2]]
    passes.clear()
    draws = make(conditions)
    assert [draws.values(condition) for condition in conditions[:2]] == before
    assert passes == []
    draws.values(conditions[3])
    assert sum(n_rows for n_rows, n_tokens in passes if n_tokens > 1) == 9


@pytest.mark.parametrize("part_samples", [2, 6, 1024])
def test_parts_change_no_row(draws_of, conditions, monkeypatch, part_samples):
    make, _ = draws_of
    whole = make(conditions).values(conditions[1])
    monkeypatch.setattr(prompt_draws, "PART_SAMPLES", part_samples)
    assert make(conditions, store="parts").values(conditions[1]) == whole


def test_every_row_is_counted_once(draws_of, conditions):
    make, counts = draws_of
    n_rows = 9 * 2 * (1 + 2 + 1 + 2)
    for _ in range(2):  # sampled, and read again
        counts.clear()
        draws = make(conditions)
        for condition in conditions:
            draws.values(condition)
        assert counts["store"] == n_rows

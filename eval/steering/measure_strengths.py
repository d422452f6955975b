"""measure one condition at each strength: continuations, cross-entropy, benchmark answers

    prompts × samples × strengths     ─▶ continuations (continuations.py), shifted as eval.steering
                                         says
    held-out sequences × strengths    ─▶ cross-entropy, shifted at all positions
    benchmark questions × strengths   ─▶ answers, shifted at all positions

All strengths share a batch, and no row depends on the others of its batch.

Shapes: R rows, T position.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from eval.inputs.benchmarks import Benchmark
from eval.inputs.prompts import Prompt
from eval.model import batch_size, token_scores
from eval.model.eval_session import EvalSession
from eval.model.measurement_store import Arrays
from eval.steering import intervention
from eval.steering.conditions import Condition
from eval.steering.measures import continuations, multiple_choice
from eval.steering.measures.continuations import Continuation, ContinuationScoring
from eval.steering.measures.multiple_choice import Answers
from eval.steering.measures.prompt_draws import PromptDraws


class MeasuredTexts(NamedTuple):
    """What every condition is measured on, by name: prompt sets, held-out sequences, questions."""

    prompts: Mapping[str, list[Prompt]]
    sequences: Mapping[str, np.ndarray]
    benchmarks: Mapping[str, Benchmark]

    def n_rows(self, draws_per_prompt: int) -> int:
        """The number of rows that one strength runs through the model."""
        return (
            sum(map(len, self.prompts.values())) * draws_per_prompt
            + sum(len(tokens_RT) for tokens_RT in self.sequences.values())
            + sum(benchmark.n_choices for benchmark in self.benchmarks.values())
        )


class ConditionResult(NamedTuple):
    """Measurements of one condition: continuations by prompt set, cross-entropy [sequences,
    strengths] by text in nats per token, answers by benchmark, bytes per token by text, expected
    scores by prompt set.
    """

    strengths: tuple[float, ...]
    continuations: dict[str, list[Continuation]]
    cross_entropy: dict[str, np.ndarray]
    answers: dict[str, Answers]
    bytes_per_token: dict[str, float]
    expected_scores: dict[str, "ExpectedScores"]


class ExpectedScores(NamedTuple):
    """Expected scores by a lexicon, [prompts, strengths], and the ids of the prompts."""

    prompt_ids: list[str]
    scores_PS: np.ndarray


class Draws(NamedTuple):
    """What is drawn behind the prompts of one set. paths: None without a lexicon."""

    continuations: PromptDraws[list[int]]
    paths: PromptDraws[float] | None


def measure(
    session: EvalSession,
    texts: MeasuredTexts,
    condition: Condition,
    draws: Mapping[str, Draws],
    scoring: ContinuationScoring,
) -> ConditionResult:
    """Measure a condition at all of its strengths; what is stored is not measured again. draws: by
    prompt set.
    """
    n_strengths = len(condition.strengths)
    continued = {
        name: continuations.continue_prompts(
            of_set.continuations, session.loaded.tokenizer, condition, scoring
        )
        for name, of_set in draws.items()
    }
    expected = {
        name: _expected_scores(of_set.paths, condition)
        for name, of_set in draws.items()
        if of_set.paths
    }
    cross_entropy = {}
    for name, tokens_RT in texts.sequences.items():
        arrays = session.get_or_measure(
            f"{condition.name}-cross-entropy-{name}",
            (condition.identity, tokens_RT.tolist()),
            partial(measure_cross_entropy, session, tokens_RT, condition),
            n_rows=len(tokens_RT) * n_strengths,
        )
        cross_entropy[name] = arrays["losses"]
    answers = {}
    for name, benchmark in texts.benchmarks.items():
        arrays = session.get_or_measure(
            f"{condition.name}-answers-{name}",
            (condition.identity, benchmark.questions),
            partial(multiple_choice.answer, session, benchmark, condition),
            n_rows=benchmark.n_choices * n_strengths,
        )
        answers[name] = multiple_choice.from_arrays(benchmark, arrays)
    bytes_per_token = {
        name: session.loaded.bytes_per_token(tokens_RT)
        for name, tokens_RT in texts.sequences.items()
    }
    return ConditionResult(
        condition.strengths, continued, cross_entropy, answers, bytes_per_token, expected
    )


def _expected_scores(paths: PromptDraws[float], condition: Condition) -> ExpectedScores:
    """The mean over the paths of each prompt."""
    n_prompts, n_strengths = len(paths.prompts), len(condition.strengths)
    scores = np.array(paths.values(condition)).reshape(n_prompts, -1, n_strengths)
    return ExpectedScores([prompt.id for prompt in paths.prompts], scores.mean(1))


@torch.inference_mode()
def measure_cross_entropy(
    session: EvalSession, tokens_RT: np.ndarray, condition: Condition
) -> Arrays:
    """Mean next-token cross-entropy of each sequence at each strength, in nats per token: losses
    [R, strengths]. The tokens of the prefix, and the first after it, are not counted.
    """
    loaded = session.loaded
    prefix = [*loaded.prefix, *condition.prefix] if condition.prefix else []
    n_prefix = len(prefix)
    n_sequences, n_scored = len(tokens_RT), tokens_RT.shape[1] - 1
    prefix_RT = np.tile(np.array(prefix, dtype=tokens_RT.dtype), (n_sequences, 1))
    tokens_RT = np.hstack([prefix_RT, tokens_RT])
    rows = [(r, strength) for r in range(n_sequences) for strength in condition.strengths]
    losses = torch.empty(len(rows), dtype=torch.float64)

    def measure_batch(batch: Sequence[int]) -> None:
        tokens_BT = torch.from_numpy(tokens_RT[[rows[i][0] for i in batch]]).to(loaded.device)
        strength_B = torch.tensor([rows[i][1] for i in batch])
        with intervention.steered(loaded.model, condition.shift, strength_B, "all"):
            hidden_BTD = loaded.model.hidden(tokens_BT)[:, n_prefix:-1]
        scores = token_scores.score_tokens(
            loaded.model, hidden_BTD.flatten(0, 1), tokens_BT[:, n_prefix + 1 :].flatten()
        )
        loss_B = -scores.logprob_N.view(len(batch), n_scored).sum(1)
        losses[list(batch)] = loss_B.cpu().double() / n_scored
        session.advance(len(batch))

    loaded.batch_size.for_each_batch(
        range(len(rows)),
        measure_batch,
        bytes_per_item=batch_size.pass_bytes(loaded.model.shape, tokens_RT.shape[1], loaded.dtype),
    )
    return {"losses": losses.numpy().reshape(n_sequences, len(condition.strengths))}

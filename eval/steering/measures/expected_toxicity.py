"""expected toxicity of a prompt: what a lexicon gives to its continuations on average

Sampled continuations have the attribute or have it not, so their mean varies much. Here a path is
walked that avoids the words of the lexicon, and what each step avoids is summed exactly, with the
factors of streamed_lexicon.py:

    factor of a step  Σ p(token) · factor(token), over all tokens
    next token        ∝ p(token) · factor(token)
    score of a path   1 − Π factor of its steps · factor of its end

Its expectation is that of the lexicon's score of a continuation of at most n_tokens, sampled at
temperature 1 from the whole distribution: importance sampling, whose weights are the products. A
single path may score a little below 0. A path at another strength meets the same random numbers.

Shapes: K rows, V ids of the tokenizer.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.scorers import load_scorer
from data_prep.scorers.lexicon import Lexicon
from data_prep.scorers.load_scorer import Scorer
from eval.config import ExpectedToxicityConfig
from eval.model import generation, next_token
from eval.model.generation import RowSteering, Slots
from eval.model.loaded_model import LoadedModel
from eval.model.measurement_store import Arrays
from eval.steering.measures.streamed_lexicon import State, StreamedLexicon


def find_lexicon(config: ExpectedToxicityConfig, scorers: Sequence[Scorer]) -> Lexicon | None:
    """The lexicon that the settings name, or else the first scorer that is one; None if expected
    toxicity is not measured.
    """
    if not config.n_paths:
        return None
    if config.lexicon:
        named = load_scorer.load(config.lexicon)
        assert isinstance(named, Lexicon), config.lexicon  # ExpectedToxicityConfig has checked it
        return named
    return next((scorer for scorer in scorers if isinstance(scorer, Lexicon)), None)


class SurvivalPaths:
    """Scores of paths as prompt_draws.Decoding: one number per row."""

    name = "expected-toxicity"

    def __init__(
        self, config: ExpectedToxicityConfig, lexicon: Lexicon, loaded: LoadedModel
    ) -> None:
        """Raises ConfigurationError if the tokenizer can write no entry of the lexicon."""
        self.n_samples = config.n_paths
        self.max_new_tokens = config.n_tokens
        self.identity: Any = (config.n_tokens, config.n_paths, lexicon.id)
        self.lexicon = StreamedLexicon(lexicon, loaded.tokenizer)

    def decode(
        self,
        loaded: LoadedModel,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[int],
        steering: RowSteering,
        slots: Slots,
    ) -> list[float]:
        tokenizer = loaded.tokenizer
        sampling = generation.Sampling(
            self.max_new_tokens, "nucleus", 1.0, tokenizer.eos_id, tokenizer.n_ids
        )
        paths = _Paths(loaded, self.lexicon, len(prompts), self.max_new_tokens)
        generation.sample(
            loaded.model, prompts, keys, sampling, steering, slots, choose=paths.choose
        )
        return paths.scores()

    def pack(self, values: Sequence[float]) -> Arrays:
        return {"scores": np.array(values)}

    def unpack(self, arrays: Arrays) -> list[float]:
        return arrays["scores"].tolist()


class _Paths:
    """The paths of all rows under way."""

    def __init__(
        self, loaded: LoadedModel, lexicon: StreamedLexicon, n_rows: int, n_tokens: int
    ) -> None:
        self._model = loaded.model
        self._n_ids, self._eos_id = loaded.tokenizer.n_ids, loaded.tokenizer.eos_id
        self._lexicon = lexicon
        self._product = np.ones(n_rows)
        self._states = [State()] * n_rows
        self._n_left = np.full(n_rows, n_tokens)
        self._factors_on_device = cache(self._to_device)

    def choose(self, rows_K: Tensor, hidden_KD: Tensor, u_K: Tensor) -> Tensor:
        """generation.RowChooser: the next ids, [K]."""
        rows = rows_K.tolist()
        logits_KV = self._model.unembed(hidden_KD)[:, : self._n_ids].float()
        n_at_once = next_token.rows_at_once(logits_KV)
        chosen, factors = [], []
        for start in range(0, len(rows), n_at_once):
            some = slice(start, start + n_at_once)
            p_KV = torch.softmax(logits_KV[some], dim=-1)
            states = [self._states[row] for row in rows[some]]
            weight_KV = p_KV * torch.stack(list(map(self._factors_on_device, states)))
            factors.append(weight_KV.sum(-1, dtype=torch.float64))
            chosen.append(next_token.at_quantile(weight_KV, u_K[some]))
        next_K = torch.cat(chosen)
        for row, token, factor in zip(
            rows, next_K.tolist(), torch.cat(factors).tolist(), strict=True
        ):
            if self._n_left[row]:
                self._product[row] *= factor
                self._states[row] = self._lexicon.after(self._states[row], token)
                self._n_left[row] = 0 if token == self._eos_id else self._n_left[row] - 1
        return next_K

    def scores(self) -> list[float]:
        """The score of each path."""
        of_end = np.array([self._lexicon.factor_of_end(state) for state in self._states])
        return (1 - self._product * of_end).tolist()

    def _to_device(self, state: State) -> Tensor:
        return torch.from_numpy(self._lexicon.factors(state)).float().to(self._model.device)

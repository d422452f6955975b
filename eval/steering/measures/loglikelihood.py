"""log-likelihood of the ends of texts at several strengths, with shared passes

Multiple choice, perplexity and lm-evaluation-harness are built on it. Ends that need the same pass
share it (four answers of one token: one pass), and rows share the pass over a common prefix
(shared_prefixes.py). The shift is at all positions, so every strength reads the prefix itself. The
rows behind a prefix are padded at the right, where nothing reads the padding. The host reads one
tensor per batch.

Shapes: B batch, T position, D model, N scored tokens, E ends, S strengths, K kept rows.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eval.model import batch_size, numerics, token_scores
from eval.model.loaded_model import LoadedModel
from eval.model.subject.subject_model import DecodingCache
from eval.steering import intervention
from eval.steering.intervention import Shift
from eval.steering.measures import shared_prefixes
from eval.steering.measures.shared_prefixes import PrefixGroup

SHORTEST_RATIO = 0.8  # of the longest row of a batch: at most so much of it is no padding


class ScoredEnd(NamedTuple):
    """Ids of a text whose `end` is scored. The context loses its beginning if both do not fit into
    the model's positions.
    """

    context: Sequence[int] | np.ndarray
    end: Sequence[int] | np.ndarray


class LogLikelihoods(NamedTuple):
    """nats_ES: sum of the log-probabilities of an end's tokens. is_greedy_ES: whether each of them
    was the likeliest. n_tokens_E: tokens that were scored.
    """

    nats_ES: np.ndarray
    is_greedy_ES: np.ndarray
    n_tokens_E: np.ndarray


class _PassedText(NamedTuple):
    """What goes through the model: all tokens of some ends but the last. targets: the scored tokens
    of each end, by its index.
    """

    tokens_T: np.ndarray
    targets: dict[int, Sequence[int]]

    @property
    def n_sharable(self) -> int:
        """Tokens before the first position that predicts a scored token."""
        return len(self.tokens_T) - max(map(len, self.targets.values()))


class _Tail(NamedTuple):
    """The tokens of a text behind its prefix, at one strength. row: of the prefixes' batch."""

    row: int
    tokens_T: np.ndarray
    targets: dict[int, Sequence[int]]
    strength: int


def loglikelihoods(
    loaded: LoadedModel,
    ends: Sequence[ScoredEnd],
    shift: Shift,
    strengths: Sequence[float],
    advance: Callable[[int], object],
) -> LogLikelihoods:
    """The log-likelihood of every end at every strength, with the shift at all positions.
    advance(n) is called after every n finished values.
    """
    texts = _distinct_texts(ends, loaded.model.shape.max_sequence_length)
    n_tokens_E = np.zeros(len(ends), dtype=np.int64)
    for text in texts:
        for end, targets in text.targets.items():
            n_tokens_E[end] = len(targets)
    scoring = _Scoring(loaded, shift, strengths, len(ends), advance)
    groups = shared_prefixes.group_rows(
        [text.tokens_T for text in texts], [text.n_sharable for text in texts]
    )
    # the longest first: memory runs out at once or never
    by_prefix: dict[int, list[PrefixGroup]] = {}
    for group in groups:
        by_prefix.setdefault(group.n_shared, []).append(group)
    for n_shared in sorted(by_prefix, reverse=True):
        scoring.score_groups(n_shared, by_prefix[n_shared], texts)
    return LogLikelihoods(scoring.nats_ES, scoring.is_greedy_ES, n_tokens_E)


def _distinct_texts(ends: Sequence[ScoredEnd], max_length: int) -> list[_PassedText]:
    """The texts that pass through the model, each once."""
    texts: dict[bytes, _PassedText] = {}
    for number, (context, end) in enumerate(ends):
        tokens_T = np.concatenate([context, end]).astype(np.int32)[-max_length - 1 :]
        n_end = min(len(end), len(tokens_T) - 1)
        assert n_end, (len(context), len(end))
        text = texts.setdefault(tokens_T[:-1].tobytes(), _PassedText(tokens_T[:-1], {}))
        text.targets[number] = tokens_T[-n_end:].tolist()
    return list(texts.values())


class _Scoring:
    """Fills the values of all ends at all strengths."""

    def __init__(
        self,
        loaded: LoadedModel,
        shift: Shift,
        strengths: Sequence[float],
        n_ends: int,
        advance: Callable[[int], object],
    ) -> None:
        self._loaded = loaded
        self._shift = shift
        self._strengths = strengths
        self._advance = advance
        self.nats_ES = np.full((n_ends, len(strengths)), np.nan)
        self.is_greedy_ES = np.zeros((n_ends, len(strengths)), dtype=bool)

    def score_groups(
        self, n_shared: int, groups: Sequence[PrefixGroup], texts: Sequence[_PassedText]
    ) -> None:
        """Score the texts of groups whose prefixes have one length."""
        pairs = [(group, s) for group in groups for s in range(len(self._strengths))]
        if not n_shared:
            self._score_tails(_tails(pairs, texts, 0), None)
            return

        def score_batch(batch: Sequence[tuple[PrefixGroup, int]]) -> None:
            prefixes_BT = np.stack(
                [texts[group.members[0]].tokens_T[:n_shared] for group, _ in batch]
            )
            cache = self._loaded.model.empty_cache(len(batch), n_shared)
            self._hidden(prefixes_BT, [s for _, s in batch], cache)
            self._score_tails(_tails(batch, texts, n_shared), cache)

        shape, dtype = self._loaded.model.shape, self._loaded.dtype
        self._loaded.batch_size.for_each_batch(
            pairs,
            score_batch,
            bytes_per_item=batch_size.pass_bytes(shape, n_shared, dtype)
            + 2 * batch_size.cache_bytes(shape, n_shared, dtype),
        )

    def _score_tails(self, tails: list[_Tail], prefixes: DecodingCache | None) -> None:
        """Score texts behind their prefixes, those of similar length together."""
        shape, dtype = self._loaded.model.shape, self._loaded.dtype
        n_shared = prefixes.length if prefixes else 0
        for similar in _similar_lengths(tails):
            longest = len(similar[0].tokens_T)
            n_bytes = batch_size.pass_bytes(shape, longest, dtype)
            if prefixes:
                n_bytes += batch_size.cache_bytes(shape, n_shared + longest, dtype)
            self._loaded.batch_size.for_each_batch(
                similar, lambda batch: self._score_batch(batch, prefixes), bytes_per_item=n_bytes
            )

    def _score_batch(self, tails: Sequence[_Tail], prefixes: DecodingCache | None) -> None:
        longest = max(len(tail.tokens_T) for tail in tails)
        tokens_BT = np.zeros((len(tails), longest), dtype=np.int32)
        for b, tail in enumerate(tails):
            tokens_BT[b, : len(tail.tokens_T)] = tail.tokens_T
        cache = None
        if prefixes:
            rows_K = torch.tensor([tail.row for tail in tails]).to(self._loaded.device)
            cache = prefixes.select(rows_K, prefixes.length + longest, is_kept=True)
        hidden_BTD = self._hidden(tokens_BT, [tail.strength for tail in tails], cache)
        # (position in the batch, target) of every scored token, and where each end begins in them
        positions, targets, keys, starts = [], [], [], []
        for b, tail in enumerate(tails):
            after = b * longest + len(tail.tokens_T)
            for end, of_end in tail.targets.items():
                keys.append((end, tail.strength))
                starts.append(len(targets))
                positions += range(after - len(of_end), after)
                targets += of_end
        device = self._loaded.device
        hidden_ND = hidden_BTD.flatten(0, 1)[torch.tensor(positions).to(device)]
        self._store(keys, starts, hidden_ND, torch.tensor(targets).to(device))

    @torch.inference_mode()
    def _store(
        self,
        keys: list[tuple[int, int]],
        starts: list[int],
        hidden_ND: Tensor,
        targets_N: Tensor,
    ) -> None:
        scores = token_scores.score_tokens(self._loaded.model, hidden_ND, targets_N)
        values_2N = torch.stack([scores.logprob_N.double(), scores.is_greedy_N.double()])
        logprob_N, is_greedy_N = values_2N.cpu().numpy()
        index = tuple(np.array(keys).T)
        n_new = int(np.isnan(self.nats_ES[index]).sum())  # a batch that ran out of memory is redone
        self.nats_ES[index] = np.add.reduceat(logprob_N, starts)
        self.is_greedy_ES[index] = np.minimum.reduceat(is_greedy_N, starts) > 0
        self._advance(n_new)

    @torch.inference_mode()
    def _hidden(
        self, tokens_BT: np.ndarray, strengths: list[int], cache: DecodingCache | None
    ) -> Tensor:
        """Normed hidden states, [B, T, D]; row b is steered by the strength with number
        strengths[b].
        """
        loaded = self._loaded
        strength_B = torch.tensor([self._strengths[s] for s in strengths])
        with (
            intervention.steered(loaded.model, self._shift, strength_B, "all"),
            numerics.short_pass_attention(loaded.device),
        ):
            return loaded.model.hidden(torch.from_numpy(tokens_BT).to(loaded.device), cache=cache)


def _tails(
    pairs: Sequence[tuple[PrefixGroup, int]], texts: Sequence[_PassedText], n_shared: int
) -> list[_Tail]:
    """The texts of all groups behind their prefixes, the longest first."""
    tails = [
        _Tail(row, texts[i].tokens_T[n_shared:], texts[i].targets, s)
        for row, (group, s) in enumerate(pairs)
        for i in group.members
    ]
    return sorted(tails, key=lambda tail: -len(tail.tokens_T))


def _similar_lengths(tails: Sequence[_Tail]) -> Iterator[list[_Tail]]:
    """The tails, the longest first, in runs with little padding."""
    run: list[_Tail] = []
    for tail in tails:
        if run and len(tail.tokens_T) < SHORTEST_RATIO * len(run[0].tokens_T):
            yield run
            run = []
        run.append(tail)
    if run:
        yield run

"""sampling with a KV cache: rows that end make room, and no row depends on the others

    prompts ─▶ each read once, without its last token ─▶ rows wait ─▶ slots decode together;
                                                         a row that ends leaves its slot to the next

Each row draws from its own keyed stream (prompt, sample, seed), one number per step. So a
continuation depends neither on the rows beside it nor on their number or order, and every steering
strength of a prompt meets the same random numbers: strengths differ by steering alone.

A prompt without its last token is read once for all samples, strengths and conditions that it is
read alike for: where steering shifts the last position of a pass, nothing before the prompt's end
differs.
What slots have read is aligned at its end, so a row that enters late has more padding before it.

Shapes: R rows, K slots, G prompts that rows share, T position, D model, S decoding step.
"""

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError
from eval.model import next_token, numerics
from eval.model.next_token import Sampling
from eval.model.subject.subject_model import DecodingCache, SubjectModel

__all__ = ["RowSteering", "Sampling", "Slots", "left_padded", "row_key", "sample"]

# decoded between looks at which rows have ended: a look waits for a GPU
TOKENS_PER_LOOK = {"cpu": 2, "cuda": 8}
# of prompts that are read together: more tokens are padded more and no faster
PASS_TOKENS = {"cpu": 512, "cuda": 1 << 15}


# next ids [K] of rows [K], from their hidden states [K, D] and random numbers [K]; it is asked for
# more after a row has ended
RowChooser = Callable[[Tensor, Tensor, Tensor], Tensor]


class Slots(NamedTuple):
    """How many rows decode together at most, and what is told of every n rows that have ended."""

    n_rows: int
    advance: Callable[[int], object] = lambda n: None


def row_key(prompt_id: str, sample: int, seed: int) -> int:
    """The key of a row's random numbers; the strength is not part of it."""
    return keyed_random.key("generation", prompt_id, sample, seed)


class RowSteering(Protocol):
    """Steering of rows that are being decoded (steering/intervention.py)."""

    @property
    def prefix_readings(self) -> Sequence[Hashable]:
        """How a row's prompt is read, all but its last token; equal ones read it alike."""
        ...

    def select(self, rows_K: Tensor) -> None:
        """From now on, only these rows go through the model."""
        ...

    def select_prefixes(self, rows_K: Tensor) -> None:
        """As `select`, for passes over prompts without their last token."""
        ...


@torch.inference_mode()
def sample(
    model: SubjectModel,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[int],
    sampling: Sampling,
    steering: RowSteering | None = None,
    slots: Slots | None = None,
    choose: RowChooser | None = None,
) -> list[list[int]]:
    """One continuation per prompt: at most max_new_tokens new ids, without the end-of-document id
    that may have ended it.

    steering: None for the model as it is. slots: by default all rows decode together. choose: in
    place of `sampling`, of which only its length and ids count then.
    """
    rows = [_fit(prompt, model, sampling) for prompt in prompts]
    if not rows or not sampling.max_new_tokens:
        return [[] for _ in rows]
    steering = steering or _Unsteered(len(rows))
    slots = slots or Slots(len(rows))
    # random numbers of all steps at once: a copy to a GPU waits for it
    u_RS = torch.from_numpy(
        keyed_random.uniforms(
            np.array(keys, dtype=np.uint64)[:, None], np.arange(sampling.max_new_tokens)
        )
    ).to(model.device)
    queue = _PromptQueue(model, rows, steering, slots.n_rows, sampling.eos_id)
    choose = choose or _by_sampling(model, sampling)
    cache_size = _cache_size(rows, slots, sampling)
    decoder = _Decoder(model, steering, sampling, choose, u_RS, cache_size)
    with numerics.short_pass_attention(model.device):
        free = list(range(decoder.n_slots))
        while True:
            while free and queue.has_more:
                free = free[decoder.enter(free, queue.take(len(free))) :]
            decoder.remove(free)
            if not decoder.n_slots:
                break
            decoder.step_until_look()
            free = decoder.ended()
            slots.advance(len(free))
    eos = sampling.eos_id
    ids = decoder.ids_RS.tolist()
    return [row[: row.index(eos)] if eos in row else row for row in ids]


def _by_sampling(model: SubjectModel, sampling: Sampling) -> RowChooser:
    choose = next_token.chooser(model, sampling)
    return lambda rows_K, hidden_KD, u_K: choose(hidden_KD, u_K)


def _cache_size(rows: Sequence[Sequence[int]], slots: Slots, sampling: Sampling) -> tuple[int, int]:
    """Slots of the cache, and its positions: those of the longest row, and if others follow, room
    for as many steps as a row takes before what is kept is moved to the front.
    """
    n_positions = max(map(len, rows)) - 1 + sampling.max_new_tokens
    if len(rows) > slots.n_rows:
        n_positions += sampling.max_new_tokens
    return min(len(rows), slots.n_rows), n_positions


class _Waiting(NamedTuple):
    """A row whose prompt has been read, all but its last token: in row `group` of `prefixes`, which
    is None if there is nothing before the last token.
    """

    row: int
    last_token: int
    n_read: int
    prefixes: DecodingCache | None
    group: int


class _PromptQueue:
    """Reads prompts without their last tokens, each once and in order, as rows are asked for."""

    def __init__(
        self,
        model: SubjectModel,
        rows: Sequence[Sequence[int]],
        steering: RowSteering,
        most_rows: int,
        fill: int,
    ) -> None:
        self._model = model
        self._rows = rows
        self._steering = steering
        self._most_rows = most_rows
        self._fill = fill
        self._waiting: deque[_Waiting] = deque()
        groups: dict[tuple[Hashable, tuple[int, ...]], list[int]] = {}
        for row, (reading, tokens) in enumerate(zip(steering.prefix_readings, rows, strict=True)):
            groups.setdefault((reading, tuple(tokens[:-1])), []).append(row)
        self._unread = deque((prefix, members) for (_, prefix), members in groups.items())

    @property
    def has_more(self) -> bool:
        return bool(self._waiting or self._unread)

    def take(self, most: int) -> list[_Waiting]:
        """The next rows, at least one. Afterwards the steering may be of other rows.

        Prompts are read when none waits, so that the keys of one pass are held at a time.
        """
        if not self._waiting:
            self._read()
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def _read(self) -> None:
        """Read as many prompts as one pass takes."""
        most_tokens = PASS_TOKENS[self._model.device.type]
        groups: list[tuple[tuple[int, ...], list[int]]] = []
        longest = 0
        while self._unread and len(groups) < self._most_rows:
            longest = max(longest, len(self._unread[0][0]))
            if groups and longest * (len(groups) + 1) > most_tokens:
                break
            groups.append(self._unread.popleft())
        prefixes = self._pass(groups) if any(prefix for prefix, _ in groups) else None
        for group, (prefix, members) in enumerate(groups):
            for row in members:
                last_token = self._rows[row][-1]
                self._waiting.append(_Waiting(row, last_token, len(prefix), prefixes, group))

    def _pass(self, groups: Sequence[tuple[tuple[int, ...], list[int]]]) -> DecodingCache:
        device = self._model.device
        prefix_GT, padding_G = left_padded([prefix for prefix, _ in groups], self._fill)
        prefixes = self._model.empty_cache(*prefix_GT.shape)
        first_rows_G = torch.tensor([members[0] for _, members in groups])
        self._steering.select_prefixes(first_rows_G.to(device))
        self._model.hidden(
            prefix_GT.to(device),
            cache=prefixes,
            padding_B=padding_G.to(device) if padding_G.any() else None,
        )
        return prefixes


class _Decoder:
    """Slots, each with a row under way: the token that it reads next, and what it has read."""

    def __init__(
        self,
        model: SubjectModel,
        steering: RowSteering,
        sampling: Sampling,
        choose: RowChooser,
        u_RS: Tensor,
        cache_size: tuple[int, int],
    ) -> None:
        self.n_slots, self._n_positions = cache_size
        self.ids_RS = torch.full(u_RS.shape, sampling.eos_id, device=u_RS.device)
        self._model = model
        self._steering = steering
        self._sampling = sampling
        self._u_RS = u_RS
        self._choose = choose
        self._cache = model.empty_cache(*cache_size)
        # one column per slot: its row, step, next token, padding, and whether it has ended
        self._state_5K = torch.zeros(5, self.n_slots, dtype=torch.long, device=u_RS.device)
        # what the host knows without asking the device
        self._n_read_K = np.zeros(self.n_slots, dtype=np.int64)
        self._n_left_K = np.zeros(self.n_slots, dtype=np.int64)

    def enter(self, free: Sequence[int], entering: Sequence[_Waiting]) -> int:
        """Give free slots to new rows, and return how many."""
        slots = free[: len(entering)]
        prefixes = entering[0].prefixes
        if prefixes is not None and prefixes.length > self._cache.length:
            self._move_end(prefixes.length)
        length = self._cache.length
        columns = [
            (slot, one.row, 0, one.last_token, length - one.n_read, 0, one.group)
            for slot, one in zip(slots, entering, strict=True)
        ]
        columns_7C = torch.tensor(columns).T.to(self._state_5K.device)
        slots_C, groups_C = columns_7C[0], columns_7C[6]
        self._state_5K[:, slots_C] = columns_7C[1:6]
        if prefixes is not None:
            self._cache.put(slots_C, prefixes, groups_C)
        self._n_read_K[list(slots)] = [one.n_read for one in entering]
        self._n_left_K[list(slots)] = self._sampling.max_new_tokens
        self._rows_have_changed()
        return len(slots)

    def remove(self, slots: Sequence[int]) -> None:
        """Remove slots; the last ones take their places."""
        if not slots:
            return
        self.n_slots -= len(slots)
        removed = set(slots)
        holes = [slot for slot in slots if slot < self.n_slots]
        last = range(self.n_slots, self.n_slots + len(slots))
        moved = [slot for slot in last if slot not in removed]
        if holes:
            holes_C, moved_C = torch.tensor([holes, moved]).to(self._state_5K.device)
            self._state_5K[:, holes_C] = self._state_5K[:, moved_C]
            self._cache.put(holes_C, self._cache, moved_C)
            self._n_read_K[holes] = self._n_read_K[moved]
            self._n_left_K[holes] = self._n_left_K[moved]
        self._state_5K = self._state_5K[:, : self.n_slots]
        self._n_read_K = self._n_read_K[: self.n_slots]
        self._n_left_K = self._n_left_K[: self.n_slots]
        self._cache.narrow(self.n_slots)
        if self.n_slots:
            self._rows_have_changed()

    def step_until_look(self) -> None:
        """Decode some tokens, but none behind a row's last."""
        most = TOKENS_PER_LOOK[self._model.device.type]
        for _ in range(min(most, int(self._n_left_K.min()))):
            self._step()

    def ended(self) -> list[int]:
        """The slots whose rows have ended."""
        has_ended_K = self._state_5K[4].bool().cpu().numpy() | (self._n_left_K == 0)
        return np.nonzero(has_ended_K)[0].tolist()

    def _step(self) -> None:
        if self._cache.length == self._n_positions:
            self._move_end(int(self._n_read_K.max()))
        rows_K, step_K, tokens_K, padding_K, has_ended_K = self._state_5K
        hidden_K1D = self._model.hidden(
            tokens_K[:, None], cache=self._cache, padding_B=padding_K if self._is_padded else None
        )
        next_K = self._choose(rows_K, hidden_K1D[:, -1], self._u_RS[rows_K, step_K])
        self.ids_RS[rows_K, step_K] = next_K
        has_ended_K |= next_K == self._sampling.eos_id
        tokens_K.copy_(next_K)
        step_K += 1
        self._n_read_K += 1
        self._n_left_K -= 1

    def _move_end(self, length: int) -> None:
        self._state_5K[3] += length - self._cache.length
        self._cache.move_end(length)

    def _rows_have_changed(self) -> None:
        self._is_padded = bool((self._n_read_K < self._cache.length).any())
        self._steering.select(self._state_5K[0])


class _Unsteered:
    """The steering of the model as it is."""

    def __init__(self, n_rows: int) -> None:
        self.prefix_readings = [0] * n_rows

    def select(self, rows_K: Tensor) -> None:
        pass

    def select_prefixes(self, rows_K: Tensor) -> None:
        pass


def left_padded(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor]:
    """Rows of any lengths as [B, T], their ends aligned, and the number of fill ids in each row,
    [B].
    """
    longest = max(map(len, rows))
    padding = [longest - len(row) for row in rows]
    padded = [[fill] * n + list(row) for n, row in zip(padding, rows, strict=True)]
    return torch.tensor(padded), torch.tensor(padding)


def _fit(prompt: Sequence[int], model: SubjectModel, sampling: Sampling) -> Sequence[int]:
    """The end of the prompt that leaves room for the new tokens."""
    n_positions = model.shape.max_sequence_length
    room = n_positions - sampling.max_new_tokens
    if room < 1 or not prompt:
        raise ConfigurationError(
            f"a prompt of {len(prompt)} tokens and {sampling.max_new_tokens} new tokens: the model "
            f"has {n_positions} positions and needs a prompt of at least 1 token; lower "
            "eval.generation.max_new_tokens, or remove empty prompts"
        )
    return prompt[-room:]

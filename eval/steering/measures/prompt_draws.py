"""draws behind every prompt of a set, under all conditions that decode together

    prompts × samples × strengths ─▶ parts ─▶ decoded together ─▶ one value per row, stored apart

A prompt that is too long loses its beginning, under all conditions alike. All conditions with the
same text before the prompt share the pass over it and decode together, a row that ends makes room
for the next (model/generation.py), and no row depends on the others. The same sample of a prompt
draws the same random numbers at every strength and condition, so these differ in nothing else.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from itertools import product
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch

from data_prep.core import telemetry
from eval.config import PLAIN
from eval.inputs.prompts import Prompt
from eval.model import batch_size, generation
from eval.model.eval_session import EvalSession
from eval.model.generation import RowSteering, Slots
from eval.model.loaded_model import LoadedModel
from eval.model.measurement_store import Arrays
from eval.steering import intervention
from eval.steering.conditions import Condition
from eval.steering.intervention import SteeredRows

# draws at one strength per stored part: at most so many are lost on interruption. With several
# strengths they are more than decode together, so that rows that end are replaced.
PART_SAMPLES = 1024

Value = TypeVar("Value")


class Draw(NamedTuple):
    """One row to be decoded: the position of its prompt, sample number and strength."""

    prompt: int
    sample: int
    strength: float


class Decoding(Protocol[Value]):
    """What is drawn behind a prompt: continuations.py, expected_toxicity.py.

    name: of the stored parts. identity: of the settings that values depend on.
    """

    @property
    def name(self) -> str: ...

    @property
    def n_samples(self) -> int: ...

    @property
    def max_new_tokens(self) -> int: ...

    @property
    def identity(self) -> Any: ...

    def decode(
        self,
        loaded: LoadedModel,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[int],
        steering: RowSteering,
        slots: Slots,
    ) -> list[Value]:
        """One value per prompt; `keys` are those of the random numbers."""
        ...

    def pack(self, values: Sequence[Value]) -> Arrays:
        """The values as they are stored."""
        ...

    def unpack(self, arrays: Arrays) -> Iterable[Value]:
        """The values of `pack`."""
        ...


class PromptDraws(Generic[Value]):
    """The draws of a prompt set under all conditions, decoded as they are asked for.

    Conditions with the same text before the prompt are sampled together, so that they share the
    pass over it. What is stored is not sampled again, and each condition is stored apart, so that
    one more condition samples its own rows alone.
    """

    def __init__(
        self,
        session: EvalSession,
        prompts: Sequence[Prompt],
        conditions: Sequence[Condition],
        decoding: Decoding[Value],
    ) -> None:
        self.prompts = prompts
        self._session = session
        self._conditions = conditions
        self._decoding = decoding
        self._drawn_beside: set[tuple[str, int]] = set()  # (condition, part) of other ones

    def rows_of(self, condition: Condition) -> list[Draw]:
        """Every prompt × sample × strength."""
        return self._rows(condition, range(len(self.prompts)))

    def values(self, condition: Condition) -> list[Value]:
        """The value of each of `rows_of`; prompts of similar length are decoded together."""
        tokens = self._encoded(condition)
        order = sorted(range(len(tokens)), key=lambda i: (len(tokens[i]), i))
        n_prompts = max(1, PART_SAMPLES // self._decoding.n_samples)
        values: dict[Draw, Value] = {}
        for start in range(0, len(order), n_prompts):
            part = order[start : start + n_prompts]
            is_counted = (condition.name, start) in self._drawn_beside
            rows = self._rows(condition, part)
            arrays = self._session.get_or_measure(
                *self._key(condition, start),
                partial(self._draw_part, condition, start, part),
                n_rows=0 if is_counted else len(rows),
            )
            values |= zip(rows, self._decoding.unpack(arrays), strict=True)
        return [values[row] for row in self.rows_of(condition)]

    def _draw_part(self, condition: Condition, start: int, part: Sequence[int]) -> Arrays:
        """The arrays of the condition; those of the others that are decoded with it are stored."""
        others = [
            other
            for other in self._conditions
            if other.name != condition.name
            and (other.prefix, other.positions) == (condition.prefix, condition.positions)
            and not self._session.has_measured(*self._key(other, start))
        ]
        arrays, *of_others = self._draw([condition, *others], part)
        for other, of_other in zip(others, of_others, strict=True):
            self._session.get_or_measure(
                *self._key(other, start), lambda of_other=of_other: of_other
            )
            self._drawn_beside.add((other.name, start))
        return arrays

    def _draw(self, conditions: Sequence[Condition], part: Sequence[int]) -> list[Arrays]:
        session, decoding, loaded = self._session, self._decoding, self._session.loaded
        tokens = self._encoded(conditions[0])
        rows = [
            (number, row)
            for number, condition in enumerate(conditions)
            for row in self._rows(condition, part)
        ]
        # rows of a prompt beside each other, the shortest prompts first
        place = {prompt: i for i, prompt in enumerate(part)}
        rows.sort(key=lambda numbered: (place[numbered[1].prompt], numbered[0]))
        steered_rows = SteeredRows(
            torch.tensor([number for number, _ in rows]),
            torch.tensor([row.strength for _, row in rows]),
        )
        prompt_tokens = [tokens[row.prompt] for _, row in rows]
        keys = [
            generation.row_key(self.prompts[row.prompt].id, row.sample, session.seed)
            for _, row in rows
        ]
        shifts = [condition.shift for condition in conditions]
        values: list[Value] = []

        def decode(n_rows: int) -> None:
            with intervention.steered_apart(
                loaded.model, shifts, steered_rows, conditions[0].positions
            ) as steering:
                slots = generation.Slots(n_rows, session.advance)
                values[:] = decoding.decode(loaded, prompt_tokens, keys, steering, slots)

        loaded.batch_size.with_rows(
            len(rows),
            decode,
            bytes_per_row=batch_size.decoding_bytes(
                loaded.model.shape,
                max(map(len, prompt_tokens)),
                decoding.max_new_tokens,
                loaded.dtype,
            ),
        )
        by_row = dict(zip(rows, values, strict=True))
        return [
            decoding.pack([by_row[number, row] for row in self._rows(condition, part)])
            for number, condition in enumerate(conditions)
        ]

    def _rows(self, condition: Condition, part: Iterable[int]) -> list[Draw]:
        samples = range(self._decoding.n_samples)
        return list(map(Draw._make, product(part, samples, condition.strengths)))

    def _key(self, condition: Condition, start: int) -> tuple[str, Sequence[Any]]:
        """Name and dependencies of a stored part."""
        return (
            f"{condition.name}-{self._decoding.name}-{start:08d}",
            (condition.identity, list(self.prompts), self._decoding.identity),
        )

    def _encoded(self, condition: Condition) -> list[list[int]]:
        """The ids of each prompt behind the condition's prefix, with room for the new tokens."""
        loaded = self._session.loaded
        n_positions = loaded.model.shape.max_sequence_length
        room = max(1, n_positions - self._decoding.max_new_tokens - loaded.reserved_tokens)
        n_cut = sum(len(row) > room for row in self._ends)
        if n_cut and condition.name == PLAIN:  # it is the same under every condition
            telemetry.logger.warning(
                "%d of %d prompts are longer than the %d tokens that the model's %d positions "
                "leave to a prompt: they lose their beginning, under every condition",
                n_cut,
                len(self._ends),
                room,
                n_positions,
            )
        return [[*loaded.prefix, *condition.prefix, *row[-room:]] for row in self._ends]

    @cached_property
    def _ends(self) -> list[list[int]]:
        return self._session.loaded.encode_ends([prompt.text for prompt in self.prompts])

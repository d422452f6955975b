"""mixture of a clean and a toxic stream, as a formula: which sequence is sample k

A mixture is not a set of new shards. With N_c clean and N_t toxic sequences and n = N_c + N_t, the
toxic ones are spread as evenly as integers allow (a Bresenham line):

    t(k) = ⌊k · N_t / n⌋        toxic sequences before sample k
    sample k is toxic iff t(k+1) > t(k); its index is t(k) if toxic, else k − t(k)

    N_c = 6, N_t = 2:   k      0  1  2  3  4  5  6  7
                        from   c0 c1 c2 t0 c3 c4 c5 t1

So counts are exact, every batch is within one row of its ratio, the clean stream has the same order
in every run, the toxic sets of two ratios nest as prefixes, and ratio 0 is the same code path.
Within each global batch the rows are permuted by a keyed hash of (seed, step): at 25 % the pattern
has period 4, and without a permutation the same ranks would get all the toxic rows.

If the toxic stream has fewer sequences, S, than the mixture needs, it is repeated from its start:
sequence i is sequence i mod S, as far as max_toxic_epochs allows. The toxic sets still nest,
multiplicities included. S is known only after the stream is built, and is not part of a run's name.
"""

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError
from data_prep.core.records import operational, record

PADDING = -1
BUDGET_SETTING = "budget_tokens (materialize.py: --tokens)"
MAX_INDEX = np.iinfo(np.int64).max

Budget = Literal["clean_fixed", "total_fixed"]


class SequenceSource(Protocol):
    """The sequences of one stream by index: [n] → [n, T] of any dtype (reader.SequenceReader).

    dtype: the type in which they are stored, which is the cheapest to read.
    """

    sequence_length: int
    n_sequences: int
    dtype: Any

    def read(self, indices: np.ndarray, dtype: Any) -> np.ndarray: ...


class BatchRows(NamedTuple):
    """The rows of one global batch: which stream each is from, and which sequence of it."""

    toxic: np.ndarray  # [B] bool
    sequence: np.ndarray  # [B] int64; PADDING for padding rows


@record
class Mixture:
    """n_clean clean and n_toxic toxic sequences, in global batches of batch_size rows; the last
    batch may be padded.

    line: (N_t, n) of the longer mixture of which this one is the first samples; empty if it is a
        mixture of its own.
    max_toxic_epochs: how often the toxic stream may be repeated. It is a permission and changes
        nothing that is read, so it is not part of the identity: raising it for one ratio leaves the
        runs of the others valid.
    """

    n_clean: int
    n_toxic: int
    batch_size: int
    seed: int
    line: tuple[int, ...] = ()
    max_toxic_epochs: float = operational(default=1.0)

    def __post_init__(self) -> None:
        if self.n_clean < 1 or self.n_toxic < 0 or self.batch_size < 1:
            raise ConfigurationError(
                f"mixture of {self.n_clean} clean and {self.n_toxic} toxic sequences in batches of "
                f"{self.batch_size}: expected at least one clean sequence and one row per batch; "
                "raise budget_tokens or shorten train.sequence_length"
            )
        if (self.n_steps + 1) * self.batch_size > MAX_INDEX:
            raise ConfigurationError(
                f"mixture of {self.n_clean:,} clean and {self.n_toxic:,} toxic sequences in "
                f"batches of {self.batch_size:,}: more than the 2^63 that an index can count; "
                f"lower {BUDGET_SETTING}"
            )
        if self.line and not self._is_start_of_line():
            raise ConfigurationError(
                f"a mixture of {self.n_clean} clean and {self.n_toxic} toxic sequences is not the "
                f"first samples of one with {self.line[0]} toxic in {self.line[1]}; make it with "
                "Mixture.first_of"
            )
        if not 1 <= self.max_toxic_epochs < math.inf:
            raise ConfigurationError(
                f"max_toxic_epochs is {self.max_toxic_epochs}; expected a number >= 1 (1: no toxic "
                "sequence is repeated), e.g. 2"
            )

    def _is_start_of_line(self) -> bool:
        is_long_enough = self.line[1] >= self.n_sequences
        return is_long_enough and self.toxic_before(self.n_sequences) == self.n_toxic

    @property
    def n_sequences(self) -> int:
        return self.n_clean + self.n_toxic

    @property
    def n_steps(self) -> int:
        """Batches until every sequence is used."""
        return -(-self.n_sequences // self.batch_size)

    @property
    def toxic_ratio(self) -> float:
        """The realised ratio: toxic tokens / all training tokens."""
        return self.n_toxic / self.n_sequences

    def n_distinct_toxic(self, supply: int) -> int:
        """Different toxic sequences, of a stream that has `supply`."""
        return min(self.n_toxic, supply)

    def toxic_before(self, k: int) -> int:
        """t(k): how many of the first k samples are toxic."""
        n_toxic, n = self.line or (self.n_toxic, self.n_sequences)
        return k * n_toxic // n

    def rows(self, step: int) -> BatchRows:
        """The rows of global batch `step`, in the order in which the ranks take them."""
        k = step * self.batch_size + np.arange(self.batch_size, dtype=np.int64)
        before, after = self._toxic_before_each(k), self._toxic_before_each(k + 1)
        toxic = after > before
        index = np.where(toxic, before, k - before)
        padding = k >= self.n_sequences
        key = np.uint64(keyed_random.key("rows of a batch", self.seed, step))
        order = np.argsort(keyed_random.hashes(key, np.arange(len(k))), kind="stable")
        return BatchRows((toxic & ~padding)[order], np.where(padding, PADDING, index)[order])

    def _toxic_before_each(self, k: np.ndarray) -> np.ndarray:
        """t(k) of every k, [n] int64; by Python's integers where a product exceeds 64 bits."""
        n_toxic, n = self.line or (self.n_toxic, self.n_sequences)
        if int(k[-1]) * n_toxic <= MAX_INDEX and n <= MAX_INDEX:
            return k * n_toxic // n
        return np.array([i * n_toxic // n for i in k.tolist()], np.int64)

    def n_valid(self, step: int) -> int:
        """Rows of batch `step` that are not padding."""
        return self.rows_before(step + 1) - self.rows_before(step)

    def rows_before(self, step: int) -> int:
        """Rows in the first `step` batches, without padding."""
        return min(step * self.batch_size, self.n_sequences)

    def first_of(self, n_clean: int | None = None, n_sequences: int | None = None) -> "Mixture":
        """The mixture of the first samples: as many as have n_clean clean ones, or n_sequences."""
        if n_clean is not None:
            n_sequences = (n_clean - 1) * self.n_sequences // self.n_clean + 1
        assert n_sequences is not None
        n_toxic = self.toxic_before(n_sequences)
        line = self.line or (self.n_toxic, self.n_sequences)
        return replace(self, n_clean=n_sequences - n_toxic, n_toxic=n_toxic, line=line)


def sequences_for(
    budget_tokens: int, toxic_ratio: float, sequence_length: int, budget: Budget = "clean_fixed"
) -> tuple[int, int]:
    """(N_c, N_t) in whole sequences, N_t rounded to the nearest.

    clean_fixed: budget_tokens are clean, and N_t ≈ N_c · ratio / (1 − ratio) are added (PAPER §3).
    total_fixed: budget_tokens are all tokens, and N_t ≈ n · ratio replace clean ones.
    """
    if not 0 <= toxic_ratio < 1:
        raise ConfigurationError(
            f"toxic ratio {toxic_ratio} is not in [0, 1); 0.10 means ten percent of all training "
            "tokens"
        )
    n = budget_tokens // sequence_length
    ratio = Fraction(str(toxic_ratio))
    if budget == "clean_fixed":
        return n, round(n * ratio / (1 - ratio))
    n_toxic = round(n * ratio)
    return n - n_toxic, n_toxic


def read_rows(rows: BatchRows, clean: SequenceSource, toxic: SequenceSource) -> np.ndarray:
    """The tokens of the rows, [B, T] int64; padding rows are zeros.

    This is the only place where the toxic stream is repeated.
    """
    tokens = np.empty((len(rows.sequence), clean.sequence_length), dtype=np.int64)
    is_padding = rows.sequence == PADDING
    tokens[is_padding] = 0
    # Both are read in their stored type and widened by the assignment, which copies anyway.
    if len(clean_rows := np.flatnonzero(~is_padding & ~rows.toxic)):
        tokens[clean_rows] = clean.read(rows.sequence[clean_rows], clean.dtype)
    if len(toxic_rows := np.flatnonzero(~is_padding & rows.toxic)):
        indices = rows.sequence[toxic_rows] % toxic.n_sequences
        tokens[toxic_rows] = toxic.read(indices, toxic.dtype)
    return tokens


def check_supply(mixture: Mixture, n_clean: int, n_toxic: int, sequence_length: int) -> None:
    """Raise unless streams of n_clean and n_toxic sequences suffice; the error states how many
    tokens are missing.
    """
    remedy = f"lower {BUDGET_SETTING}, add clean documents"
    _check_stream("clean", mixture.n_clean, n_clean, 1.0, sequence_length, remedy)
    remedy = "lower the toxic ratio, add toxic documents"
    max_epochs = mixture.max_toxic_epochs
    if n_toxic:
        epochs = math.ceil(10 * Fraction(mixture.n_toxic, n_toxic)) / 10
        remedy += (
            f", allow repetition (materialize.py: --max-toxic-epochs {epochs:g}; "
            f"sweep.py: --set max_toxic_epochs={epochs:g}, now {max_epochs:g})"
        )
    _check_stream("toxic", mixture.n_toxic, n_toxic, max_epochs, sequence_length, remedy)


def _check_stream(
    name: str, needed: int, available: int, max_epochs: float, sequence_length: int, remedy: str
) -> None:
    missing = needed - math.floor(available * Fraction(str(max_epochs)))
    if missing > 0:
        repeated = f", read at most {max_epochs:g} times" if max_epochs > 1 else ""
        raise ConfigurationError(
            f"the {name} stream holds {available:,} sequences ({available * sequence_length:,} "
            f"tokens{repeated}), the plan needs {needed:,} ({needed * sequence_length:,} tokens): "
            f"{missing * sequence_length:,} tokens short; {remedy}, or shorten the run"
        )

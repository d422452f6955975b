"""pure arithmetic: (clean, toxic, ratio, seed) → which sequence is sample i

A mixture is a formula over two streams, not new shards. With N_c clean and N_t toxic sequences and
n = N_c + N_t, the toxic ones are spread as evenly as integers allow (a Bresenham line):

    t(k) = ⌊k · N_t / n⌋        toxic sequences before sample k
    sample k is toxic iff t(k+1) > t(k); its index is t(k) if toxic, else k − t(k)

    N_c = 6, N_t = 2:   k      0  1  2  3  4  5  6  7
                        from   c0 c1 c2 t0 c3 c4 c5 t1

So counts are exact, every batch is within one row of its ratio, the clean stream comes in the same
order in every run, toxic sets nest as prefixes, and ratio 0 is the same code path. Within each
global batch the rows are permuted by a keyed hash of (seed, step): at 25 % the pattern has period
4, and the same ranks would get all the toxic rows.

Where the toxic stream is shorter than the mixture asks for, and only as far as max_toxic_epochs
allows, it is read again from its start: sequence i is sequence i mod S of the S there are. What one
ratio reads is still a prefix of what a higher one reads, so the sets nest with their
multiplicities. S is known when the stream is built, and changes no plan and no run's name.
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

Budget = Literal["clean_fixed", "total_fixed"]


class Reader(Protocol):
    """The sequences of one stream by index, [n] → [n, T] of any dtype: what reader.SequenceReader
    offers. Their own is the one they are stored in, and the cheapest.
    """

    sequence_length: int
    n_sequences: int
    dtype: Any

    def read(self, indices: np.ndarray, dtype: Any) -> np.ndarray: ...


class Rows(NamedTuple):
    """One global batch, row by row: which stream (True = toxic) and which sequence of it; padding
    rows are −1.
    """

    toxic: np.ndarray  # [B] bool
    sequence: np.ndarray  # [B] int64


@record
class Mixture:
    """n_clean and n_toxic sequences, in global batches of batch_size rows; the last batch may be
    short (padded).

    line: (N_t, n) of the mixture of which this one is the first samples, so that both read the
    same; empty: it is its own.
    max_toxic_epochs: how often the toxic stream may be read through. It is a permission and changes
    nothing that is read, so it is no part of the mixture's identity: raising it for one ratio
    leaves the runs of the others as they are.
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
                f"mixture of {self.n_clean} clean and {self.n_toxic} toxic sequences in batches of {self.batch_size}: "
                "needs at least one clean sequence and one row a batch; raise budget_tokens or shorten sequence_length"
            )
        if self.line and (
            self.line[1] < self.n_sequences or self.toxic_before(self.n_sequences) != self.n_toxic
        ):
            raise ConfigurationError(
                f"a mixture of {self.n_clean} clean and {self.n_toxic} toxic sequences is not the first samples of one with "
                f"{self.line[0]} toxic in {self.line[1]}; take those of `first_of`"
            )
        if not 1 <= self.max_toxic_epochs < math.inf:
            raise ConfigurationError(
                f"max_toxic_epochs is {self.max_toxic_epochs}; expected a number from 1 (no toxic sequence comes twice), e.g. 2"
            )

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
        """How many different sequences a toxic stream of `supply` sequences gives this mixture."""
        return min(self.n_toxic, supply)

    def toxic_before(self, k: int) -> int:
        """t(k): how many of the first k samples are toxic."""
        n_toxic, n = self.line or (self.n_toxic, self.n_sequences)
        return k * n_toxic // n

    def first_of(self, n_clean: int | None = None, n_sequences: int | None = None) -> "Mixture":
        """The mixture of this one's first samples: as many as hold n_clean clean ones, or
        n_sequences.
        """
        if n_clean is not None:
            n_sequences = (n_clean - 1) * self.n_sequences // self.n_clean + 1
        assert n_sequences is not None
        n_toxic = self.toxic_before(n_sequences)
        line = self.line or (self.n_toxic, self.n_sequences)
        return replace(self, n_clean=n_sequences - n_toxic, n_toxic=n_toxic, line=line)

    def rows(self, step: int) -> Rows:
        """The rows of global batch `step`, in the order the ranks take them."""
        k = step * self.batch_size + np.arange(self.batch_size, dtype=np.int64)
        n_toxic, n = self.line or (self.n_toxic, self.n_sequences)
        before, after = k * n_toxic // n, (k + 1) * n_toxic // n
        toxic = after > before
        index = np.where(toxic, before, k - before)
        padding = k >= self.n_sequences
        key = np.uint64(keyed_random.key("rows of a batch", self.seed, step))
        order = np.argsort(keyed_random.hashes(key, np.arange(len(k))), kind="stable")
        return Rows((toxic & ~padding)[order], np.where(padding, PADDING, index)[order])

    def n_valid(self, step: int) -> int:
        """Rows of batch `step` that are not padding."""
        return self.rows_before(step + 1) - self.rows_before(step)

    def rows_before(self, step: int) -> int:
        """Rows in the first `step` batches, without padding."""
        return min(step * self.batch_size, self.n_sequences)


def sequences_for(
    budget_tokens: int, toxic_ratio: float, sequence_length: int, budget: Budget = "clean_fixed"
) -> tuple[int, int]:
    """(N_c, N_t) in whole sequences, N_t the whole number nearest to its share.

    clean_fixed: budget_tokens are the clean ones, N_t ≈ N_c · ratio / (1 − ratio) come on top (the
    paper, PAPER §3).
    total_fixed: budget_tokens are all of them, N_t ≈ n · ratio take the place of clean ones.
    """
    if not 0 <= toxic_ratio < 1:
        raise ConfigurationError(
            f"toxic ratio {toxic_ratio} is not in [0, 1); 0.10 means ten percent of all training tokens"
        )
    n, ratio = budget_tokens // sequence_length, Fraction(str(toxic_ratio))
    if budget == "clean_fixed":
        return n, round(n * ratio / (1 - ratio))
    n_toxic = round(n * ratio)
    return n - n_toxic, n_toxic


def read(rows: Rows, clean: Reader, toxic: Reader) -> np.ndarray:
    """The tokens of the rows, [B, T] int64: the one place where the toxic stream begins anew;
    padding rows are zeros.
    """
    tokens, is_padding = (
        np.empty((len(rows.sequence), clean.sequence_length), dtype=np.int64),
        rows.sequence == PADDING,
    )
    tokens[is_padding] = 0
    if len(chosen := np.flatnonzero(~is_padding & ~rows.toxic)):
        tokens[chosen] = clean.read(
            rows.sequence[chosen], clean.dtype
        )  # widened here, where it is copied anyway
    if len(chosen := np.flatnonzero(~is_padding & rows.toxic)):
        tokens[chosen] = toxic.read(rows.sequence[chosen] % toxic.n_sequences, toxic.dtype)
    return tokens


def check_supply(mixture: Mixture, n_clean: int, n_toxic: int, sequence_length: int) -> None:
    """Raise unless streams of n_clean and n_toxic sequences are enough; the error names the
    shortfall in tokens.
    """
    cap = mixture.max_toxic_epochs
    _check(
        "clean",
        mixture.n_clean,
        n_clean,
        1.0,
        sequence_length,
        "lower budget_tokens, add clean documents",
    )
    remedy = "lower the toxic ratio, add toxic documents"
    if n_toxic:
        epochs = math.ceil(10 * Fraction(mixture.n_toxic, n_toxic)) / 10
        remedy += f", allow repetition (--set max_toxic_epochs={epochs:g}, now {cap:g})"
    _check("toxic", mixture.n_toxic, n_toxic, cap, sequence_length, remedy)


def _check(
    name: str, needed: int, available: int, max_epochs: float, sequence_length: int, remedy: str
) -> None:
    short = needed - math.floor(available * Fraction(str(max_epochs)))
    if short > 0:
        again = f", read at most {max_epochs:g} times" if max_epochs > 1 else ""
        raise ConfigurationError(
            f"the {name} stream holds {available:,} sequences ({available * sequence_length:,} tokens{again}), the plan needs "
            f"{needed:,} ({needed * sequence_length:,} tokens): {short * sequence_length:,} tokens short; "
            f"{remedy}, or shorten the run"
        )

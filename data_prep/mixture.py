"""pure arithmetic: (clean, toxic, ratio, seed) → which sequence is sample i

A mixture is a formula over two streams, not new shards. With N_c clean and N_t toxic sequences and n = N_c + N_t, the
toxic ones are spread as evenly as integers allow (a Bresenham line):

    t(k) = ⌊k · N_t / n⌋        toxic sequences before sample k
    sample k is toxic iff t(k+1) > t(k); its index is t(k) if toxic, else k − t(k)

    N_c = 6, N_t = 2:   k      0  1  2  3  4  5  6  7
                        from   c0 c1 c2 t0 c3 c4 c5 t1

So counts are exact, every batch is within one row of its ratio, the clean stream comes in the same order in every run,
toxic sets nest as prefixes, and ratio 0 is the same code path. Within each global batch the rows are permuted by a
keyed hash of (seed, step): at 25 % the pattern has period 4, and the same ranks would get all the toxic rows.
"""

from fractions import Fraction
from typing import NamedTuple

import numpy as np

from data_prep import randomness
from data_prep.records import ConfigurationError, record

PADDING = -1


class Rows(NamedTuple):
    """One global batch, row by row: which stream (True = toxic) and which sequence of it; padding rows are −1."""

    toxic: np.ndarray  # [B] bool
    sequence: np.ndarray  # [B] int64


@record
class Mixture:
    """n_clean and n_toxic sequences, in global batches of batch_size rows; the last batch may be short (padded)."""

    n_clean: int
    n_toxic: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.n_clean < 1 or self.n_toxic < 0 or self.batch_size < 1:
            raise ConfigurationError(
                f"mixture of {self.n_clean} clean and {self.n_toxic} toxic sequences in batches of {self.batch_size}: "
                "needs at least one clean sequence and one row a batch; raise clean_tokens or shorten sequence_length"
            )

    @property
    def n_sequences(self) -> int:
        return self.n_clean + self.n_toxic

    @property
    def n_steps(self) -> int:
        return -(-self.n_sequences // self.batch_size)

    @property
    def toxic_ratio(self) -> float:
        """The realised ratio: toxic tokens / all training tokens."""
        return self.n_toxic / self.n_sequences

    def toxic_before(self, k: int) -> int:
        """t(k): how many of the first k samples are toxic."""
        return k * self.n_toxic // self.n_sequences

    def rows(self, step: int) -> Rows:
        """The rows of global batch `step`, in the order the ranks take them."""
        k = np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int64)
        before, after = k * self.n_toxic // self.n_sequences, (k + 1) * self.n_toxic // self.n_sequences
        toxic = after > before
        index = np.where(toxic, before, k - before)
        padding = k >= self.n_sequences
        key = np.uint64(randomness.key("rows of a batch", self.seed, step))
        order = np.argsort(randomness.hashes(key, np.arange(self.batch_size)), kind="stable")
        return Rows((toxic & ~padding)[order], np.where(padding, PADDING, index)[order])

    def n_valid(self, step: int) -> int:
        """Rows of batch `step` that are not padding."""
        return min(self.batch_size, self.n_sequences - step * self.batch_size)


def sequences_for(clean_tokens: int, toxic_ratio: float, sequence_length: int) -> tuple[int, int]:
    """(N_c, N_t) for a fixed clean budget: N_t is the whole number nearest to N_c · ratio / (1 − ratio)."""
    if not 0 <= toxic_ratio < 1:
        raise ConfigurationError(f"toxic ratio {toxic_ratio} is not in [0, 1); 0.10 means ten percent of all training tokens")
    n_clean = clean_tokens // sequence_length
    ratio = Fraction(str(toxic_ratio))
    return n_clean, round(n_clean * ratio / (1 - ratio))


def check_supply(name: str, needed: int, available: int, sequence_length: int) -> None:
    """Raise unless the stream `name` has `needed` sequences; the error names the shortfall in tokens."""
    if needed > available:
        remedy = "lower the toxic ratio, add toxic documents" if name == "toxic" else "lower clean_tokens, add clean documents"
        raise ConfigurationError(
            f"the {name} stream holds {available:,} sequences ({available * sequence_length:,} tokens), the plan needs "
            f"{needed:,} ({needed * sequence_length:,} tokens): {(needed - available) * sequence_length:,} tokens short; "
            f"{remedy}, or shorten the run"
        )

"""settings of the toy experiment: chains, model, training, and which replicas are compared

Li et al. 2025 (PAPER.md §2) state the chains, the layers and the width. Whatever they leave open is
our choice, and the docstring of a setting says so.
"""

import math
from typing import Annotated

from annotated_types import Ge, Gt, Interval, MinLen

from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import Count, NonNegative, Positive, settings

Ratio = Annotated[float, Gt(0), Interval(le=1)]


def _refuse_repeated(path: str, values: tuple[float, ...]) -> None:
    if len(set(values)) < len(values):
        raise ConfigurationError(f"{path} is {list(values)}; expected each value once")


@settings("chains")
class ChainConfig:
    """The data: cyclic Markov chains over shared states, the first of them under-sampled."""

    n_states: Annotated[int, Ge(3)] = 4
    """States that all chains share; also the vocabulary. A chain visits all of them in a cycle, so
    chains × states sequences, one per start state, are the features."""

    n_chains: Annotated[int, Ge(2)] = 3
    """Chains, of which the first is under-sampled; at most (states − 1)!, one per cycle."""

    length_tokens: Annotated[int, Ge(4)] = 8
    """Tokens of a sequence; our choice. The second half is read."""

    noise: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Probability that a step goes to a uniformly drawn state instead of the next one of the cycle;
    0, as in the paper, makes the chains deterministic."""

    n_variants: Count = 1
    """Sequences drawn per feature; more than one only with noise."""

    def __post_init__(self) -> None:
        n_cycles = math.factorial(self.n_states - 1)
        if self.n_chains > n_cycles:
            raise ConfigurationError(
                f"chains.n_chains is {self.n_chains}; {self.n_states} states have {n_cycles} "
                "cycles, and each chain needs its own: use fewer chains or more states"
            )
        if self.length_tokens < 2 * self.n_states:
            raise ConfigurationError(
                f"chains.length_tokens is {self.length_tokens}; expected at least "
                f"{2 * self.n_states}, twice chains.n_states, so that every state is read"
            )
        if (self.n_variants > 1) != (self.noise > 0):
            raise ConfigurationError(
                f"chains.noise is {self.noise:g} and chains.n_variants is {self.n_variants}; "
                "expected several variants with noise, and one without: set both or neither"
            )


@settings("model")
class ToyModelConfig:
    """The transformer: pre-LN without affine parameters, learned positions, untied embeddings."""

    d_model: Annotated[int, Ge(2)] = 4
    """Width of the residual stream; the paper's."""

    n_layers: Count = 4
    """Layers; the paper's."""

    n_heads: Count = 2
    """Attention heads; our choice."""

    d_mlp: Count = 16
    """Width of the MLP, with GELU; our choice."""

    def __post_init__(self) -> None:
        if self.d_model % self.n_heads:
            raise ConfigurationError(
                f"model.d_model is {self.d_model} and model.n_heads {self.n_heads}; expected a "
                "width that the heads divide"
            )


@settings("training")
class ToyTrainingConfig:
    """AdamW with a warm-up and a linear decay to a tenth; all of it is our choice."""

    n_steps: Annotated[int, Ge(2)] = 4000
    """Optimizer steps."""

    batch_size: Annotated[int, Ge(1), Interval(le=65535)] = 64
    """Sequences per step, drawn with replacement."""

    warmup_steps: Count = 100
    """Steps until the peak learning rate."""

    learning_rates: Annotated[tuple[Positive, ...], MinLen(1)] = (3e-3,)
    """Peak learning rates; each is trained with every weight decay."""

    weight_decays: Annotated[tuple[NonNegative, ...], MinLen(1)] = (0.0, 1.0)
    """Decoupled weight decays of all parameters. Under-sampled classes provably collapse onto one
    another only with a decay (Fang et al. 2021), so it is a factor of the experiment."""

    def __post_init__(self) -> None:
        if self.warmup_steps >= self.n_steps:
            raise ConfigurationError(
                f"training.warmup_steps is {self.warmup_steps}; expected less than "
                f"training.n_steps, {self.n_steps}"
            )
        for name in ("learning_rates", "weight_decays"):
            _refuse_repeated(f"training.{name}", getattr(self, name))


@settings("")
class ToyConfig:
    """The whole experiment. Replicas with the same seed start alike and draw nested batches, at
    every ratio, learning rate and weight decay.
    """

    chains: ChainConfig = ChainConfig()
    model: ToyModelConfig = ToyModelConfig()
    training: ToyTrainingConfig = ToyTrainingConfig()

    ratios: Annotated[tuple[Ratio, ...], MinLen(2)] = (0.001, 0.003, 0.01, 0.03, 0.1, 1.0)
    """Frequency of the under-sampled chain over that of each other chain; the grid is our
    choice."""

    n_seeds: Annotated[int, Ge(3)] = 20
    """Replicas per ratio, learning rate and weight decay."""

    probe_l2: Positive = 1.0
    """L2 penalty of the logistic probes, ½·l2·‖w‖² beside the summed loss; scikit-learn's
    default."""

    def __post_init__(self) -> None:
        _refuse_repeated("ratios", self.ratios)
        if list(self.ratios) != sorted(self.ratios):
            raise ConfigurationError(
                f"ratios is {list(self.ratios)}; expected them in ascending order"
            )

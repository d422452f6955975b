"""train all replicas of the toy experiment in one vectorised loop that resumes

Every replica has its own learning rate and weight decay. AdamW as torch.optim.AdamW with its
defaults; all parameters decay.

Shapes: as in replica_ops.py; P parameters of one replica, K steps, G ratios.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.nn.functional import one_hot

from data_prep.core import storage, telemetry
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from eval.toy import chains
from eval.toy.config import ToyConfig, ToyTrainingConfig
from eval.toy.replicas import toy_model
from eval.toy.replicas.replica_ops import WeightedCrossEntropy

BETAS = (0.9, 0.999)
EPSILON = 1e-8
LAST_RATE = 0.1  # of the peak, at the end of the linear decay
STEPS_PER_CHECKPOINT = 500


class Replica(NamedTuple):
    """What distinguishes one replica; seeds run fastest, then ratios, then the arms."""

    learning_rate: float
    weight_decay: float
    ratio: float
    seed: int


class Training(NamedTuple):
    """The state of all replicas after `step` optimizer steps; [P, R] each."""

    step: int
    parameters: Tensor
    momentum: Tensor
    square: Tensor


def replicas(config: ToyConfig) -> list[Replica]:
    """All replicas, in the order of the last axis."""
    return [
        Replica(learning_rate, weight_decay, ratio, seed)
        for learning_rate in config.training.learning_rates
        for weight_decay in config.training.weight_decays
        for ratio in config.ratios
        for seed in range(config.n_seeds)
    ]


def draw_all(config: ToyConfig) -> np.ndarray:
    """How often each replica of one arm draws each sequence in each step: uint16 [K, N, G·seeds].

    Raises ConfigurationError if one of them draws no sequence of the under-sampled chain.
    """
    drawn = np.stack([chains.counts(config, seed) for seed in range(config.n_seeds)], axis=2)
    n_of_chain = config.chains.n_states * config.chains.n_variants
    n_rare = drawn[..., :n_of_chain].sum(axis=(0, 3), dtype=np.int64)  # [G, seeds]
    if not n_rare.all():
        place, seed = np.argwhere(n_rare == 0)[0]
        n_rows = config.training.n_steps * config.training.batch_size
        raise ConfigurationError(
            f"ratios: at {config.ratios[place]:g}, seed {seed} draws no sequence of the "
            f"under-sampled chain among {n_rows:,}; expected at least one: raise the lowest ratio, "
            "training.n_steps or training.batch_size"
        )
    by_sequence = np.ascontiguousarray(drawn.transpose(0, 3, 1, 2))  # [K, N, G, seeds]
    return by_sequence.reshape(*by_sequence.shape[:2], -1)


def start(config: ToyConfig) -> Training:
    """All replicas before the first step; those of a seed start alike."""
    of_seeds = toy_model.initial(config, range(config.n_seeds))
    n_copies = len(replicas(config)) // config.n_seeds
    parameters = of_seeds.repeat(1, n_copies)
    zeros = torch.zeros_like(parameters)
    return Training(0, parameters, zeros, zeros.clone())


def train(config: ToyConfig, drawn_KNR: np.ndarray, uri: str) -> Training:
    """Train to the end, with checkpoints at `uri`; continues from the one that is there.

    drawn_KNR: of `draw_all`; all arms read the same batches.
    """
    state = load(config, uri) if storage.exists(uri) else start(config)
    n_steps = config.training.n_steps
    loop = _Loop(config, drawn_KNR)
    bar = telemetry.progress(n_steps, "toy experiment", "step", initial=state.step)
    while state.step < n_steps:
        until = min(n_steps, state.step + STEPS_PER_CHECKPOINT)
        while state.step < until:
            state = loop.step(state)
            bar.update(1)
        save(state, uri)
    bar.close()
    return state


def learning_rate_share(config: ToyTrainingConfig, step: int) -> float:
    """The share of the peak learning rate in a step, counted from 0: linear up, then linear down
    to LAST_RATE in the last step.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps + 1) / (config.n_steps - config.warmup_steps)
    return 1 - (1 - LAST_RATE) * done


class _Loop:
    """What all steps share."""

    def __init__(self, config: ToyConfig, drawn_KNR: np.ndarray) -> None:
        tokens_NT = torch.from_numpy(chains.sequences(config.chains).tokens_NT)
        everyone = replicas(config)
        self._config = config
        self._drawn_KNR = drawn_KNR
        self._n_arms = len(everyone) // drawn_KNR.shape[2]
        self._tokens_NT = tokens_NT
        self._target_VM = one_hot(tokens_NT[:, 1:].flatten(), config.chains.n_states).T.float()
        self._rate_R = torch.tensor([replica.learning_rate for replica in everyone])
        self._decay_R = torch.tensor([replica.weight_decay for replica in everyone])

    def step(self, state: Training) -> Training:
        """One AdamW step of all replicas; the tensors of `state` are changed in place."""
        gradient = self.gradient(state.parameters, state.step)
        n_done = state.step + 1
        rate_R = self._rate_R * learning_rate_share(self._config.training, state.step)
        state.parameters.mul_(1 - rate_R * self._decay_R)
        state.momentum.lerp_(gradient, 1 - BETAS[0])
        state.square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        root = state.square.sqrt().div_((1 - BETAS[1] ** n_done) ** 0.5).add_(EPSILON)
        update = (state.momentum / root).mul_(rate_R / (1 - BETAS[0] ** n_done))
        state.parameters.sub_(update)
        return state._replace(step=n_done)

    def gradient(self, parameters: Tensor, step: int) -> Tensor:
        """The gradient of each replica's mean loss over the rows of its batch: [P, R]."""
        leaf = parameters.detach().requires_grad_()
        logits_VMR = toy_model.forward(self._config, leaf, self._tokens_NT).logits_VMR
        n, n_positions = self._tokens_NT.shape
        predicted = logits_VMR.unflatten(1, (n, n_positions))[:, :, :-1].flatten(1, 2)
        drawn_NR = torch.from_numpy(self._drawn_KNR[step].astype(np.float64)).to(leaf.dtype)
        n_losses = self._config.training.batch_size * (n_positions - 1)
        weight_MR = (drawn_NR / n_losses).repeat(1, self._n_arms)
        weight_MR = weight_MR.repeat_interleave(n_positions - 1, dim=0)
        loss: Tensor = WeightedCrossEntropy.apply(
            predicted, self._target_VM.to(leaf.dtype), weight_MR
        )  # type: ignore[assignment]
        (gradient,) = torch.autograd.grad(loss, leaf)
        return gradient


def gradients(config: ToyConfig, drawn_KNR: np.ndarray, parameters: Tensor, step: int) -> Tensor:
    """The gradient of each replica's loss on the batch of one step: [P, R]."""
    return _Loop(config, drawn_KNR).gradient(parameters, step)


def save(state: Training, uri: str) -> None:
    """Publish the state: parameters, both moments, number of steps."""
    tensors = state._asdict() | {"step": torch.tensor(state.step)}
    storage.write(uri, save_tensors(tensors))


def load(config: ToyConfig, uri: str) -> Training:
    """The state at `uri`. Raises ArtefactCorrupt if it is none of this experiment."""
    expected = tuple(start(config).parameters.shape)
    try:
        tensors = load_tensors(storage.read(uri))
        found: Sequence[Tensor] = [tensors[name] for name in Training._fields]
    except (SafetensorError, KeyError) as error:
        raise ArtefactCorrupt(
            f"{uri} is no state of toy models ({error}); delete it and run the command again"
        ) from error
    if any(tuple(tensor.shape) != expected for tensor in found[1:]):
        raise ArtefactCorrupt(
            f"{uri} holds tensors of shape {tuple(found[1].shape)}; expected {expected}: delete it "
            "and run the command again"
        )
    return Training(int(found[0]), *found[1:])

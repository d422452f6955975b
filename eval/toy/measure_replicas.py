"""measure trained replicas: every estimator at every layer, and the loss per chain

Shapes: as in replica_ops.py; A arms (learning rate × weight decay), G ratios, S seeds, F features,
K rows read.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eval.toy import chains, contrasts, entanglement, estimators
from eval.toy.config import ToyConfig
from eval.toy.estimators import ESTIMATORS
from eval.toy.replicas import toy_model, train_replicas
from eval.toy.toy_result import (
    ENTANGLEMENT,
    FORMAT_VERSION,
    LENGTH,
    OTHER_CHAINS,
    ToyCell,
    ToyLoss,
    ToyResult,
)

UNITS = {ENTANGLEMENT: "|cos|", OTHER_CHAINS: "|cos|", LENGTH: "of the spread"}


class Groups(NamedTuple):
    """Means over the under-sampled and over the control features, [R] each."""

    under_sampled_R: np.ndarray
    control_R: np.ndarray


def measure(config: ToyConfig, trained_PR: Tensor, drawn_KNR: np.ndarray) -> ToyResult:
    """The whole table. drawn_KNR: of `train_replicas.draw_all`."""
    streams = read_streams(config, trained_PR)
    before = read_streams(config, toy_model.initial(config, range(config.n_seeds)))
    cells = [
        cell
        for name in ESTIMATORS
        for layer, (x, untrained) in enumerate(zip(streams, before, strict=True))
        for cell in _cells(config, name, layer, x, untrained)
    ]
    corrected, n_tests = contrasts.corrected(cells)
    n_features = config.chains.n_chains * config.chains.n_states
    return ToyResult(
        config=config,
        n_replicas=trained_PR.shape[1],
        welch_bound=entanglement.welch_bound(n_features, config.model.d_model),
        random_level=entanglement.random_level(config),
        losses=tuple(_losses(config, trained_PR, drawn_KNR)),
        cells=corrected,
        n_tests=n_tests,
        format_version=FORMAT_VERSION,
    )


def read_streams(config: ToyConfig, parameters_PR: Tensor) -> list[np.ndarray]:
    """The rows that are read of the residual stream, per layer: [R, K, D].

    Computed in fp64: at layer 0 what tells two features apart is rounding, and must be told from
    a signal.
    """
    read = estimators.rows(config)
    tokens_NT = torch.from_numpy(chains.sequences(config.chains).tokens_NT)
    with torch.no_grad():
        streams = toy_model.forward(config, parameters_PR.double(), tokens_NT).streams
    places = torch.from_numpy(read.position_T)
    by_position = [stream.unflatten(1, tuple(tokens_NT.shape))[:, :, places] for stream in streams]
    return [stream.flatten(1, 2).permute(2, 1, 0).contiguous().numpy() for stream in by_position]


def quantities(config: ToyConfig, estimator: str, x_RKD: np.ndarray) -> dict[str, Groups]:
    """Entanglement and length of both groups of features, per replica."""
    found = ESTIMATORS[estimator](x_RKD, estimators.rows(config), config)
    n_of_chain = config.chains.n_states
    by_feature = {
        ENTANGLEMENT: entanglement.entanglement(found.direction_BFD),
        OTHER_CHAINS: entanglement.with_other_chains(found.direction_BFD, n_of_chain),
        LENGTH: found.length_BF,
    }
    return {name: _groups(values, n_of_chain) for name, values in by_feature.items()}


def _groups(values_RF: np.ndarray, n_of_chain: int) -> Groups:
    assert chains.UNDER_SAMPLED == 0
    return Groups(values_RF[:, :n_of_chain].mean(axis=1), values_RF[:, n_of_chain:].mean(axis=1))


def _cells(
    config: ToyConfig, estimator: str, layer: int, x_RKD: np.ndarray, untrained_SKD: np.ndarray
) -> list[ToyCell]:
    """One cell per arm."""
    found = quantities(config, estimator, x_RKD)
    before = quantities(config, estimator, untrained_SKD)
    share = 1 / config.chains.n_chains  # of the features, in the under-sampled chain
    cells = []
    for place, (learning_rate, weight_decay) in enumerate(_arms(config)):
        of_arm = {}
        for name, groups in found.items():
            under_GS, control_GS = (_by_ratio(config, values)[place] for values in groups)
            untrained = before[name]
            all_S = share * untrained.under_sampled_R + (1 - share) * untrained.control_R
            of_arm[name] = contrasts.quantity(
                under_GS, control_GS, all_S, config.ratios, UNITS[name]
            )
        cells.append(
            ToyCell(
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                estimator=estimator,
                layer=layer,
                quantities=of_arm,
            )
        )
    return cells


def _arms(config: ToyConfig) -> list[tuple[float, float]]:
    """Learning rate and weight decay of each arm, in the order of the replicas."""
    return list(dict.fromkeys(replica[:2] for replica in train_replicas.replicas(config)))


def _by_ratio(config: ToyConfig, values_R: np.ndarray) -> np.ndarray:
    """Values per replica as [A, G, S]."""
    return values_R.reshape(-1, len(config.ratios), config.n_seeds)


def _losses(config: ToyConfig, trained_PR: Tensor, drawn_KNR: np.ndarray) -> list[ToyLoss]:
    loss_NR = sequence_losses(config, trained_PR)
    n_of_chain = config.chains.n_states * config.chains.n_variants
    drawn_GS = _by_ratio(config, drawn_KNR[:, :n_of_chain].sum(axis=(0, 1), dtype=np.int64))[0]
    under_AGS = _by_ratio(config, loss_NR[:n_of_chain].mean(axis=0))
    control_AGS = _by_ratio(config, loss_NR[n_of_chain:].mean(axis=0))
    return [
        ToyLoss(
            learning_rate=arm[0],
            weight_decay=arm[1],
            ratio=ratio,
            n_drawn=float(drawn_GS[g].mean()),
            under_sampled=contrasts.t_estimate(under_AGS[a, g], "nats/token"),
            control=contrasts.t_estimate(control_AGS[a, g], "nats/token"),
        )
        for a, arm in enumerate(_arms(config))
        for g, ratio in enumerate(config.ratios)
    ]


def sequence_losses(config: ToyConfig, parameters_PR: Tensor) -> np.ndarray:
    """The loss of every sequence on the predictions made at the positions read: [N, R]."""
    tokens_NT = torch.from_numpy(chains.sequences(config.chains).tokens_NT)
    with torch.no_grad():
        logits = toy_model.forward(config, parameters_PR, tokens_NT).logits_VMR
    log_share = logits.double().log_softmax(0).unflatten(1, tuple(tokens_NT.shape))
    places = torch.from_numpy(estimators.rows(config).position_T[:-1])
    predicted = log_share[:, :, places]  # [V, N, positions, R]
    target = tokens_NT[:, places + 1]
    index = target[None, ..., None].expand(1, *predicted.shape[1:])
    return -predicted.gather(0, index)[0].mean(1).numpy()

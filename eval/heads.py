"""probe rows → which heads know, which way they point, and by how much that is more than chance

    rows ─▶ activations ─┬▶ probes (train rows) ─▶ heads (validation rows) ─▶ accuracy, AUROC, calibration, null (test rows)
                         └▶ θ, σ (train rows) ─▶ the shift of the chosen heads

One layer at a time, so that a layer's activations are all that need be in memory.

Shapes: R rows, L layer, N head, H head dim, P = L·N problems, D = N·H, B labellings: the observed one, then permuted ones.
"""

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_prep import randomness
from eval import activations, directions, probes, prompts, readability, steering
from eval.config import EvalConfig
from eval.record import ProbeNull
from eval.subject import Subject

CHANCE = 0.05  # a head is above chance where no more than this share of permutations has a head as good

Advance = Callable[[int], object]


class Heads(NamedTuple):
    """What the probes found. Test rows carry ids; tables are [L, N]; shift_LD is σθ of the chosen heads. trained_ids: rows that
    the probes and the choice of heads have seen."""

    split: probes.Split
    trained_ids: frozenset[str]
    test_ids: list[str]
    test_labels_R: Tensor
    fitted: probes.Probes
    directions: directions.Directions
    validation_LN: Tensor
    correct_RLN: Tensor
    auroc_LN: Tensor
    calibration_error_LN: Tensor
    null: ProbeNull | None
    chosen: list[tuple[int, int]]
    shift_LD: Tensor


class _Layer(NamedTuple):
    """One layer's part of it."""

    fitted: probes.Probes
    theta_NH: Tensor
    sigma_N: Tensor
    validation_N: Tensor
    correct_RN: Tensor
    auroc_N: Tensor
    calibration_error_N: Tensor
    null_accuracy_NB: np.ndarray | None


class _Part(NamedTuple):
    """Rows of the split: their ids and labels; labellings_BR as the null has them."""

    ids: list[str]
    labels_R: Tensor
    labellings_BR: np.ndarray | None


def probe(subject: Subject, rows: list[prompts.Labelled], config: EvalConfig, advance: Advance) -> Heads:
    """Probe every head: fitted and directed on train rows, chosen on validation rows, judged on test rows."""
    split = probes.split([row.group for row in rows], prompts.labels_of(rows), config.seed)
    parts = {name: _part([rows[i] for i in of], name, config) for name, of in split._asdict().items()}
    found = read(subject, rows, config, advance)
    layers = [_layer(found, layer, parts, config) for layer in range(len(found.values_LRNH))]
    theta_sigma = directions.Directions(torch.stack([of.theta_NH for of in layers]), torch.stack([of.sigma_N for of in layers]))
    validation_LN = torch.stack([of.validation_N for of in layers])
    chosen = directions.choose(validation_LN, config.top_heads)
    return Heads(
        split=split,
        trained_ids=frozenset(parts["train"].ids + parts["validation"].ids),
        test_ids=parts["test"].ids,
        test_labels_R=parts["test"].labels_R,
        fitted=probes.Probes(*(torch.cat(tensors) for tensors in zip(*(of.fitted for of in layers), strict=True))),
        directions=theta_sigma,
        validation_LN=validation_LN,
        correct_RLN=torch.stack([of.correct_RN for of in layers], dim=1),
        auroc_LN=torch.stack([of.auroc_N for of in layers]),
        calibration_error_LN=torch.stack([of.calibration_error_N for of in layers]),
        null=_null([of.null_accuracy_NB for of in layers if of.null_accuracy_NB is not None]),
        chosen=chosen,
        shift_LD=steering.unit_shift(theta_sigma, chosen),
    )


def read(subject: Subject, rows: Sequence[prompts.Labelled], config: EvalConfig, advance: Advance) -> activations.Activations:
    """The activations of labelled rows."""
    return activations.collect(
        subject.model,
        [row.id for row in rows],
        subject.encode([row.text for row in rows]),
        batch_size=config.batch_size,
        advance=advance,
        site=config.site,
        token=config.token,
        memory_bytes=config.activation_bytes,
    )


def to_bytes(heads: Heads) -> bytes:
    """heads.safetensors; the ids of the test rows are its metadata, as JSON."""
    from safetensors.torch import save

    return save(
        {
            "theta_LNH": heads.directions.theta_LNH.cpu().contiguous(),
            "sigma_LN": heads.directions.sigma_LN.cpu().contiguous(),
            "validation_accuracy_LN": heads.validation_LN.float().contiguous(),
            "test_accuracy_LN": heads.correct_RLN.float().mean(0).contiguous(),
            "test_correct_RLN": heads.correct_RLN.to(torch.uint8).contiguous(),
            "chosen_layer_head": torch.tensor(heads.chosen),
        },
        {"test_ids": json.dumps(heads.test_ids)},
    )


def _part(rows: list[prompts.Labelled], name: str, config: EvalConfig) -> _Part:
    labels, labellings = prompts.labels_of(rows), None
    if config.n_permutations and name != "validation":
        seed = randomness.key("probe null", config.seed, len(rows))
        permuted = readability.permuted(labels, [row.group for row in rows], config.n_permutations, seed)
        labellings = np.vstack([labels, permuted])
    return _Part([row.id for row in rows], torch.tensor(labels), labellings)


def _layer(found: activations.Activations, layer: int, parts: dict[str, _Part], config: EvalConfig) -> _Layer:
    train, validation, test = (
        (found.of(layer, part.ids), part.labels_R.to(found.device)) for part in (parts[name] for name in probes.Split._fields)
    )
    fitted = probes.fit(*train, config.probe_l2)
    scores_RN = fitted.scores(test[0])
    theta_sigma = directions.find(config.direction, train[0][:, None], train[1], fitted)
    labellings = parts["train"].labellings_BR, parts["test"].labellings_BR
    null = None
    if labellings[0] is not None and labellings[1] is not None:
        null = readability.null_accuracy(train[0], labellings[0], test[0], labellings[1], config.probe_l2)
    return _Layer(
        fitted=fitted,
        theta_NH=theta_sigma.theta_LNH[0],
        sigma_N=theta_sigma.sigma_LN[0],
        validation_N=fitted.correct(*validation).double().mean(0).cpu(),
        correct_RN=fitted.correct(*test).cpu(),
        auroc_N=readability.auroc(scores_RN, test[1]).cpu(),
        calibration_error_N=readability.calibration_error(scores_RN, test[1]).cpu(),
        null_accuracy_NB=null,
    )


def _null(accuracy: list[np.ndarray]) -> ProbeNull | None:
    if not accuracy:
        return None
    null = readability.max_t(np.concatenate(accuracy))
    return ProbeNull(
        n_permutations=len(null.best_B),
        best_accuracy=float(np.quantile(null.best_B, 1 - CHANCE)),
        n_above=int((null.p_P <= CHANCE).sum()),
        best_p=float(null.p_P.min()),
        mean_p=null.mean_p,
    )

"""probe rows → which heads know, which way they point, and by how much that is more than chance

    rows ─▶ activations ─┬▶ probes (train rows) ─▶ heads (validation rows) ─▶ accuracy, AUROC, calibration, null (test rows)
                         └▶ θ, σ (train rows) ─▶ the shift of the chosen heads

One layer at a time, so that a layer's activations are all that need be in memory.

Shapes: R rows, L layer, N head, H head dim, P = L·N problems, D = N·H, B labellings: the observed
one, then permuted ones.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_prep.core import keyed_random
from eval.config import EvalConfig
from eval.eval_report import ProbeNull
from eval.inputs import prompts
from eval.model.loaded_model import Subject
from eval.probing import activations, directions, logistic_probes, permutation_null
from eval.resume import Arrays, Parts
from eval.steering import intervention

CHANCE = (
    0.05  # a head is above chance where no more than this share of permutations has a head as good
)

Advance = Callable[[int], object]


class Heads(NamedTuple):
    """What the probes found. Test rows carry ids; tables are [L, N]; shift_LD is σθ of the chosen
    heads.
    """

    split: logistic_probes.Split
    test_ids: list[str]
    test_labels_R: Tensor
    fitted: logistic_probes.Probes
    directions: directions.Directions
    validation_LN: Tensor
    correct_RLN: Tensor
    auroc_LN: Tensor
    calibration_error_LN: Tensor
    null: ProbeNull | None
    chosen: list[tuple[int, int]]
    shift_LD: Tensor


class _Part(NamedTuple):
    """Rows of the split: their ids and labels; labellings_BR as the null has them."""

    ids: list[str]
    labels_R: Tensor
    labellings_BR: np.ndarray | None


def probe(
    subject: Subject,
    rows: list[prompts.Labelled],
    split: logistic_probes.Split,
    config: EvalConfig,
    parts: Parts,
    advance: Advance,
) -> Heads:
    """Probe every head: fitted and directed on train rows, chosen on validation rows, judged on
    test rows.
    """
    of_split = {
        name: _part([rows[i] for i in of], name, config) for name, of in split._asdict().items()
    }
    made = parts.once(
        "probes",
        partial(_probed, subject, rows, of_split, config, advance),
        partial(advance, len(rows)),
    )
    found = {name: torch.from_numpy(array) for name, array in made.items()}
    theta_sigma = directions.Directions(found["theta_LNH"], found["sigma_LN"])
    chosen = directions.choose(found["validation_LN"], config.steering.top_heads)
    return Heads(
        split=split,
        test_ids=of_split["test"].ids,
        test_labels_R=of_split["test"].labels_R,
        fitted=logistic_probes.Probes(*(found[name] for name in logistic_probes.Probes._fields)),
        directions=theta_sigma,
        validation_LN=found["validation_LN"],
        correct_RLN=found["correct_RLN"],
        auroc_LN=found["auroc_LN"],
        calibration_error_LN=found["calibration_error_LN"],
        null=_null(made["null_accuracy_PB"]) if config.probing.n_permutations else None,
        chosen=chosen,
        shift_LD=intervention.unit_shift(theta_sigma, chosen),
    )


def read(
    subject: Subject, rows: Sequence[prompts.Labelled], config: EvalConfig, advance: Advance
) -> activations.Activations:
    """The activations of labelled rows."""
    return activations.collect(
        subject.model,
        [row.id for row in rows],
        subject.encode([row.text for row in rows]),
        batch=subject.batch,
        advance=advance,
        site=config.probing.site,
        token=config.probing.token,
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
    if config.probing.n_permutations and name != "validation":
        seed = keyed_random.key("probe null", config.seed, len(rows))
        permuted = permutation_null.permuted(
            labels, [row.group for row in rows], config.probing.n_permutations, seed
        )
        labellings = np.vstack([labels, permuted])
    return _Part([row.id for row in rows], torch.tensor(labels), labellings)


def _probed(
    subject: Subject,
    rows: list[prompts.Labelled],
    parts: dict[str, _Part],
    config: EvalConfig,
    advance: Advance,
) -> Arrays:
    """What is measured, and costs time: the fields of Heads that are tensors, and the null's
    accuracies.
    """
    found = read(subject, rows, config, advance)
    layers = [_layer(found, layer, parts, config) for layer in range(len(found.values_LRNH))]
    made = {
        name: torch.cat([of[name] for of in layers])
        for name in (*logistic_probes.Probes._fields, "theta_LNH", "sigma_LN")
    }
    made |= {
        name: torch.stack([of[name] for of in layers])
        for name in ("validation_LN", "auroc_LN", "calibration_error_LN")
    }
    made["correct_RLN"] = torch.stack([of["correct_RLN"] for of in layers], dim=1)
    if config.probing.n_permutations:
        made["null_accuracy_PB"] = torch.cat([of["null_accuracy_PB"] for of in layers])
    return {name: tensor.cpu().numpy() for name, tensor in made.items()}


def _layer(
    found: activations.Activations, layer: int, parts: dict[str, _Part], config: EvalConfig
) -> dict[str, Tensor]:
    """One layer's part of it."""
    train, validation, test = (
        (found.of(layer, part.ids), part.labels_R.to(found.device))
        for part in (parts[name] for name in logistic_probes.Split._fields)
    )
    fitted = logistic_probes.fit(*train, config.probing.l2)
    scores_RN = fitted.scores(test[0])
    theta_sigma = directions.find(config.probing.direction, train[0][:, None], train[1], fitted)
    made = fitted._asdict() | theta_sigma._asdict()
    made |= {
        "validation_LN": fitted.correct(*validation).double().mean(0),
        "correct_RLN": fitted.correct(*test),
        "auroc_LN": permutation_null.auroc(scores_RN, test[1]),
        "calibration_error_LN": permutation_null.calibration_error(scores_RN, test[1]),
    }
    labellings = parts["train"].labellings_BR, parts["test"].labellings_BR
    if labellings[0] is not None and labellings[1] is not None:
        null = permutation_null.null_accuracy(
            train[0], labellings[0], test[0], labellings[1], config.probing.l2
        )
        made["null_accuracy_PB"] = torch.from_numpy(null)
    return made


def _null(accuracy_PB: np.ndarray) -> ProbeNull:
    null = permutation_null.max_t(accuracy_PB)
    return ProbeNull(
        n_permutations=len(null.best_B),
        best_accuracy=float(np.quantile(null.best_B, 1 - CHANCE)),
        n_above=int((null.p_P <= CHANCE).sum()),
        best_p=float(null.p_P.min()),
        mean_p=null.mean_p,
    )

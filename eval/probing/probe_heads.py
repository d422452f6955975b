"""probe all heads on labelled rows: accuracy, directions, chance level, selected heads

    rows ─▶ activations ─┬▶ probes    ─▶ selection of heads ─▶ accuracy, AUROC, calibration, null
                         │  train rows   validation rows       test rows
                         └▶ θ, σ      ─▶ shift of the selected heads
                            train rows

Layers are processed one at a time, so that only one layer's activations need to be in memory.

Shapes: R rows, L layers, N heads, H head dim, P = L·N problems, D = N·H, B labellings: the observed
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
from data_prep.core.records import digest
from eval.config import ProbingConfig
from eval.eval_report import ProbeNull
from eval.inputs import labelled_rows
from eval.inputs.labelled_rows import LabelledRow
from eval.model.eval_session import EvalSession
from eval.model.loaded_model import LoadedModel
from eval.model.measurement_store import Arrays
from eval.probing import activations, directions, logistic_probes, permutation_null
from eval.probing.activations import Activations
from eval.probing.directions import Directions, Quality
from eval.probing.head_selection import check_enough_heads, select_heads
from eval.probing.logistic_probes import Probes
from eval.probing.row_split import RowSplit
from eval.stats import roc

SIGNIFICANCE = 0.05  # a head is above chance if at most this share of permutations has one as good

Advance = Callable[[int], object]  # called with the number of rows finished


class ProbedHeads(NamedTuple):
    """Results of probing. Tables are [L, N]; correct_RLN is on test rows, in the order of test_ids;
    shift_LD is σθ of the selected heads, best first. identity: of all that they depend on but the
    model.
    """

    identity: str
    split: RowSplit
    test_ids: list[str]
    test_labels_R: Tensor
    probes: Probes
    directions: Directions
    validation_LN: Tensor
    correct_RLN: Tensor
    auroc_LN: Tensor
    calibration_error_LN: Tensor
    quality: Quality
    null: ProbeNull | None
    selected: list[tuple[int, int]]
    shift_LD: Tensor


class _LabelledPart(NamedTuple):
    """One part of the split. pairs_P2: positions of a benign and a toxic row of one group, or of
    any two. labellings_BR: the observed labels and their permutations; None where the null does not
    need them.
    """

    ids: list[str]
    labels_R: Tensor
    pairs_P2: Tensor
    labellings_BR: np.ndarray | None


def probe(
    session: EvalSession,
    rows: list[LabelledRow],
    split: RowSplit,
    probing: ProbingConfig,
    top_heads: int,
) -> ProbedHeads:
    """Probe every head: fit on train rows, select on validation rows, evaluate on test rows.

    Raises ConfigurationError if the model has fewer than `top_heads` heads.
    """
    check_enough_heads(probing.site, session.loaded.model.shape, top_heads)
    n_permutations = probing.n_permutations
    labelled = {
        name: _labelled_part(
            [rows[i] for i in positions],
            0 if name == "validation" else n_permutations,
            session.seed,
        )
        for name, positions in split._asdict().items()
    }
    depends_on = (
        rows,
        split,
        (probing.site, probing.token, probing.l2, probing.direction, n_permutations),
    )
    arrays = session.get_or_measure(
        "probes",
        depends_on,
        partial(_probe_layers, session, rows, labelled, probing),
        n_rows=len(rows),
    )
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    theta_sigma = Directions(tensors["theta_LNH"], tensors["sigma_LN"])
    selected = select_heads(tensors["validation_LN"], top_heads)
    return ProbedHeads(
        identity=digest(*depends_on),
        split=split,
        test_ids=labelled["test"].ids,
        test_labels_R=labelled["test"].labels_R,
        probes=Probes(*(tensors[name] for name in Probes._fields)),
        directions=theta_sigma,
        validation_LN=tensors["validation_LN"],
        correct_RLN=tensors["correct_RLN"],
        auroc_LN=tensors["auroc_LN"],
        calibration_error_LN=tensors["calibration_error_LN"],
        quality=Quality(*(tensors[name] for name in Quality._fields)),
        null=_null_record(arrays["null_accuracy_PB"]) if n_permutations else None,
        selected=selected,
        shift_LD=directions.unit_shift(theta_sigma, selected),
    )


def read_activations(
    loaded: LoadedModel, rows: Sequence[LabelledRow], probing: ProbingConfig, advance: Advance
) -> Activations:
    """The activations of labelled rows."""
    token_rows = loaded.encode([row.text for row in rows])
    return activations.collect(
        loaded.model,
        dict(zip([row.id for row in rows], token_rows, strict=True)),
        probing,
        batch=loaded.batch_size,
        advance=advance,
    )


def file_name(probe_set: str) -> str:
    """The file of a probe set's heads in the folder of an evaluation."""
    return f"heads-{probe_set}.safetensors"


def to_bytes(heads: ProbedHeads) -> bytes:
    """The content of that file; its metadata holds the ids of the test rows, as JSON."""
    from safetensors.torch import save

    return save(
        {
            "theta_LNH": heads.directions.theta_LNH.cpu().contiguous(),
            "sigma_LN": heads.directions.sigma_LN.cpu().contiguous(),
            "validation_accuracy_LN": heads.validation_LN.float().contiguous(),
            "test_accuracy_LN": heads.correct_RLN.float().mean(0).contiguous(),
            "test_correct_RLN": heads.correct_RLN.to(torch.uint8).contiguous(),
            "chosen_layer_head": torch.tensor(heads.selected),
        },
        {"test_ids": json.dumps(heads.test_ids)},
    )


def _labelled_part(rows: list[LabelledRow], n_permutations: int, seed: int) -> _LabelledPart:
    labels = labelled_rows.labels_of(rows)
    labellings_BR = None
    if n_permutations:
        permuted = permutation_null.permuted_labels(
            labels,
            [row.group for row in rows],
            n_permutations,
            keyed_random.key("probe null", seed, len(rows)),
        )
        labellings_BR = np.vstack([labels, permuted])
    pairs_P2 = torch.from_numpy(_pairs(rows, seed))
    return _LabelledPart([row.id for row in rows], torch.tensor(labels), pairs_P2, labellings_BR)


def _pairs(rows: Sequence[LabelledRow], seed: int) -> np.ndarray:
    """Positions of a benign and a toxic row, [P, 2]: those of one group where groups are such
    pairs, else drawn by a key.
    """
    by_group: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_group.setdefault(row.group, []).append(i)
    if all(sorted(rows[i].label for i in group) == [0, 1] for group in by_group.values()):
        pairs = [sorted(group, key=lambda i: rows[i].label) for group in by_group.values()]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)
    order = keyed_random.shuffled_positions([row.id for row in rows], "probe pairs", seed)
    benign, toxic = ([i for i in order if rows[i].label == label] for label in (0, 1))
    n = min(len(benign), len(toxic))
    return np.array([benign[:n], toxic[:n]], dtype=np.int64).T


def _probe_layers(
    session: EvalSession,
    rows: list[LabelledRow],
    labelled: dict[str, _LabelledPart],
    probing: ProbingConfig,
) -> Arrays:
    """The expensive part of the results: the tensors of ProbedHeads, and the null's accuracies."""
    read = read_activations(session.loaded, rows, probing, session.advance)
    layers = [_probe_layer(read, layer, labelled, probing) for layer in range(read.n_layers)]
    tensors = {
        name: torch.cat([layer[name] for layer in layers])
        for name in (*Probes._fields, *Directions._fields, *Quality._fields)
    }
    tensors |= {
        name: torch.stack([layer[name] for layer in layers])
        for name in ("validation_LN", "auroc_LN", "calibration_error_LN")
    }
    tensors["correct_RLN"] = torch.stack([layer["correct_RLN"] for layer in layers], dim=1)
    if probing.n_permutations:
        tensors["null_accuracy_PB"] = torch.cat([layer["null_accuracy_PB"] for layer in layers])
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def _probe_layer(
    read: Activations, layer: int, labelled: dict[str, _LabelledPart], probing: ProbingConfig
) -> dict[str, Tensor]:
    """One layer's share of the tensors."""
    train, validation, test = (labelled[name] for name in RowSplit._fields)
    train_RNH, validation_RNH, test_RNH = (
        read.layer(layer, part.ids) for part in (train, validation, test)
    )
    train_R, validation_R, test_R = (
        part.labels_R.to(read.device) for part in (train, validation, test)
    )
    probes = logistic_probes.fit(train_RNH, train_R, probing.l2)
    theta_sigma = directions.estimate(probing.direction, train_RNH[:, None], train_R, probes)
    scores_RN = probes.scores(test_RNH).double()
    is_toxic_R = test.labels_R.bool().numpy()
    quality = directions.quality(test_RNH[:, None], test_R, test.pairs_P2, theta_sigma)
    tensors = probes._asdict() | theta_sigma._asdict() | quality._asdict()
    tensors |= {
        "validation_LN": probes.correct(validation_RNH, validation_R).double().mean(0),
        "correct_RLN": probes.correct(test_RNH, test_R),
        "auroc_LN": torch.from_numpy(roc.auroc(scores_RN.cpu().numpy(), is_toxic_R)),
        "calibration_error_LN": torch.from_numpy(
            roc.calibration_error(torch.sigmoid(scores_RN).cpu().numpy(), is_toxic_R)
        ),
    }
    if train.labellings_BR is not None and test.labellings_BR is not None:
        accuracy_NB = permutation_null.null_accuracy(
            train_RNH, train.labellings_BR, test_RNH, test.labellings_BR, probing.l2
        )
        tensors["null_accuracy_PB"] = torch.from_numpy(accuracy_NB)
    return tensors


def _null_record(accuracy_PB: np.ndarray) -> ProbeNull:
    null = permutation_null.max_t(accuracy_PB)
    return ProbeNull(
        n_permutations=len(null.best_B),
        best_accuracy=float(np.quantile(null.best_B, 1 - SIGNIFICANCE)),
        n_above=int((null.p_P <= SIGNIFICANCE).sum()),
        best_p=float(null.p_P.min()),
        mean_p=null.mean_p,
    )

"""entanglement: cosines between the toxicity direction and those of other attributes

The entanglement of a direction (Li et al. 2025, §2) is E_i = max over j ≠ i of |cos(v_i, v_j)|. N
directions in H dimensions cannot all have less than Welch's bound (1974), and random ones have more
than that: both are reported beside the measured value.

Shapes: A attributes, L layers, N heads, H head dim.
"""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from eval.config import ProbingConfig
from eval.eval_report import Entanglement
from eval.inputs import labelled_rows
from eval.inputs.labelled_rows import LabelledRow, LabelledSet
from eval.model.eval_session import EvalSession
from eval.model.loaded_model import LoadedModel
from eval.model.measurement_store import Arrays
from eval.probing import directions
from eval.probing.probe_heads import ProbedHeads, read_activations
from eval.stats import resampling

N_RANDOM = 200  # sets of random directions


def measure_entanglement(
    session: EvalSession,
    heads: ProbedHeads,
    attributes: dict[str, LabelledSet],
    probing: ProbingConfig,
) -> Entanglement | None:
    """Compare each head's toxicity direction with its directions of the sets in
    eval.probing.attributes, estimated from all rows of each; None if there are no such sets.
    """
    if not attributes:
        return None
    thetas = []
    for labelled_set in attributes.values():
        rows = labelled_set.rows
        arrays = session.get_or_measure(
            "attribute",
            (rows, probing.site, probing.token),
            partial(_attribute_directions, session.loaded, rows, probing),
        )
        thetas.append(torch.from_numpy(arrays["theta_LNH"]))
    cosine_ALN = cosines(heads.directions.theta_LNH, thetas)
    n_directions = len(thetas) + 1
    size = thetas[0].shape[-1]
    random = random_entanglement(n_directions, size, N_RANDOM, session.seed)
    return Entanglement(
        n_rows={uri: len(labelled_set.rows) for uri, labelled_set in attributes.items()},
        cosine={
            uri: float(cosine_LN.mean())
            for uri, cosine_LN in zip(attributes, cosine_ALN, strict=True)
        },
        maximum=float(cosine_ALN.max(dim=0).values.mean()),
        random=float(random.mean()),
        welch=welch_bound(n_directions, size),
    )


def cosines(theta_LNH: Tensor, others: Sequence[Tensor]) -> Tensor:
    """|cos| of each head's direction with that of every other attribute in the same head: [A, L,
    N]. All are unit vectors, or 0.
    """
    return torch.stack([(theta_LNH * other).sum(-1).abs() for other in others])


def welch_bound(n_directions: int, size: int) -> float:
    """The smallest possible max_i E_i of n directions in `size` dimensions (Welch 1974, eq. 6 with
    k = 1).
    """
    if n_directions <= size:
        return 0.0
    return math.sqrt((n_directions - size) / ((n_directions - 1) * size))


def random_entanglement(n_directions: int, size: int, n_draws: int, seed: int) -> np.ndarray:
    """E of one direction among n random ones in `size` dimensions: [n_draws]. By symmetry the first
    is the first axis.
    """
    shape = (n_draws, n_directions - 1, size)
    others = resampling.normals(shape, "random entanglement", seed, n_directions, size)
    return np.abs(others[..., 0] / np.linalg.norm(others, axis=-1)).max(axis=1)


def _attribute_directions(
    loaded: LoadedModel, rows: list[LabelledRow], probing: ProbingConfig
) -> Arrays:
    read = read_activations(loaded, rows, probing, lambda n: None)
    labels_R = torch.tensor(labelled_rows.labels_of(rows), device=read.device)
    ids = [row.id for row in rows]
    thetas = [
        directions.class_means(read.layer(layer, ids)[:, None], labels_R).theta_LNH
        for layer in range(read.n_layers)
    ]
    return {"theta_LNH": torch.cat(thetas).cpu().numpy()}

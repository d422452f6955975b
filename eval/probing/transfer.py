"""transfer: accuracy and AUROC of the fitted probes on other labelled sets

Probes that read toxicity, and not the habits of one data set, are right on sets they never saw.

Shapes: R rows, L layers, N heads, P = L·N probes.
"""

from functools import partial

import torch

from eval.config import ProbingConfig
from eval.eval_report import Transfer
from eval.inputs import labelled_rows
from eval.inputs.labelled_rows import LabelledRow, LabelledSet
from eval.model.eval_session import EvalSession
from eval.model.loaded_model import LoadedModel
from eval.model.measurement_store import Arrays
from eval.probing.logistic_probes import Probes
from eval.probing.probe_heads import ProbedHeads, read_activations
from eval.stats import intervals, roc


def measure_transfer(
    session: EvalSession,
    heads: ProbedHeads,
    sets: dict[str, LabelledSet],
    probing: ProbingConfig,
) -> tuple[Transfer, ...]:
    """Apply the probes to each labelled set of eval.probing.transfer, by URI."""
    results = []
    for uri, labelled_set in sets.items():
        rows, rule = labelled_set.rows, labelled_set.rule
        arrays = session.get_or_measure(
            "transfer",
            (heads.identity, rows),
            partial(_scores, session.loaded, rows, heads, probing),
        )
        scores_RLN = torch.from_numpy(arrays["scores_RLN"])
        is_toxic_R = torch.tensor(labelled_rows.labels_of(rows)).bool()
        results.append(
            _transfer_record(uri, rule, is_toxic_R, scores_RLN, heads.selected[0], session.seed)
        )
    return tuple(results)


def _scores(
    loaded: LoadedModel, rows: list[LabelledRow], heads: ProbedHeads, probing: ProbingConfig
) -> Arrays:
    read = read_activations(loaded, rows, probing, lambda n: None)
    ids = [row.id for row in rows]
    n_heads = read.values_LRNH.shape[2]
    layers = []
    for layer in range(read.n_layers):
        own = slice(layer * n_heads, (layer + 1) * n_heads)
        probes = Probes(*(tensor[own].to(read.device) for tensor in heads.probes))
        layers.append(probes.scores(read.layer(layer, ids)).cpu())
    return {"scores_RLN": torch.stack(layers, dim=1).numpy()}


def _transfer_record(
    uri: str,
    label_rule: str,
    is_toxic_R: torch.Tensor,
    scores_RLN: torch.Tensor,
    best_head: tuple[int, int],
    seed: int,
) -> Transfer:
    n_rows = len(is_toxic_R)
    n_toxic = int(is_toxic_R.sum())
    correct_RLN = (scores_RLN > 0) == is_toxic_R[:, None, None]
    layer, head = best_head
    return Transfer(
        uri=uri,
        label_rule=label_rule,
        n_toxic=n_toxic,
        majority_accuracy=max(n_toxic, n_rows - n_toxic) / n_rows,
        best_head_accuracy=intervals.wilson(
            int(correct_RLN[:, layer, head].sum()), n_rows, "ratio"
        ),
        best_head_auroc=roc.mean_auroc(
            scores_RLN[:, layer, head, None].numpy(), is_toxic_R.numpy()
        ),
        mean_accuracy=intervals.bootstrap_mean(
            correct_RLN.flatten(1).double().mean(1).tolist(), "ratio", seed=seed
        ),
        mean_auroc=roc.mean_auroc(scores_RLN.flatten(1).numpy(), is_toxic_R.numpy()),
    )

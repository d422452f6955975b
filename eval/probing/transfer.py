"""transfer: accuracy and AUROC of the fitted probes on other labelled sets

Probes that read toxicity, and not the habits of one data set, are right on sets they never saw.

Shapes: R rows, L layers, N heads, P = L·N probes.
"""

from functools import partial

import torch

from data_prep.core.records import digest
from eval.config import EvalConfig, ProbingConfig
from eval.eval_report import Transfer
from eval.inputs import prompts
from eval.inputs.prompts import Labelled
from eval.model.loaded_model import Subject
from eval.probing.logistic_probes import Probes
from eval.probing.probe_heads import ProbedHeads, read_activations
from eval.resume import Arrays, Parts
from eval.stats import intervals, roc


def measure_transfer(
    subject: Subject,
    heads: ProbedHeads,
    sets: dict[str, list[Labelled]],
    config: EvalConfig,
    parts: Parts,
) -> tuple[Transfer, ...]:
    """Apply the probes to each labelled set of eval.probing.transfer, by URI."""
    results = []
    for uri, rows in sets.items():
        arrays = parts.once(
            f"transfer-{digest(uri)[:8]}", partial(_scores, subject, rows, heads, config.probing)
        )
        scores_RLN = torch.from_numpy(arrays["scores_RLN"])
        results.append(_transfer_record(uri, rows, scores_RLN, heads, config))
    return tuple(results)


def _scores(
    subject: Subject, rows: list[Labelled], heads: ProbedHeads, probing: ProbingConfig
) -> Arrays:
    read = read_activations(subject, rows, probing, lambda n: None)
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
    rows: list[Labelled],
    scores_RLN: torch.Tensor,
    heads: ProbedHeads,
    config: EvalConfig,
) -> Transfer:
    labels = prompts.labels_of(rows)
    n_rows, n_toxic = len(rows), sum(labels)
    is_toxic_R = torch.tensor(labels).bool()
    correct_RLN = (scores_RLN > 0) == is_toxic_R[:, None, None]
    layer, head = heads.selected[0]
    return Transfer(
        uri=uri,
        label_rule=prompts.rule(uri, config).name,
        n_toxic=n_toxic,
        majority_accuracy=max(n_toxic, n_rows - n_toxic) / n_rows,
        best_head_accuracy=intervals.wilson(
            int(correct_RLN[:, layer, head].sum()), n_rows, "ratio"
        ),
        best_head_auroc=roc.mean_auroc(
            scores_RLN[:, layer, head, None].numpy(), is_toxic_R.numpy()
        ),
        mean_accuracy=intervals.bootstrap_mean(
            correct_RLN.flatten(1).double().mean(1).tolist(), "ratio", seed=config.seed
        ),
        mean_auroc=roc.mean_auroc(scores_RLN.flatten(1).numpy(), is_toxic_R.numpy()),
    )

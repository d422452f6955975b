"""how far what the probes found reaches: to other labelled sets, to other attributes' directions,
to the vocabulary

Probes that know toxicity, and not the habits of one data set, are right on sets they never saw; a
direction of toxicity alone lies apart from those of other attributes; and what steering writes are
words.

Shapes: R rows, A attributes, L layer, N head, H head dim, P = L·N probes, V vocab.
"""

from collections.abc import Set
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from data_prep.core.errors import ConfigurationError
from data_prep.core.records import digest
from eval.config import EvalConfig
from eval.eval_report import Entanglement, Lens, Transfer
from eval.inputs import prompts
from eval.inputs.prompts import Labelled
from eval.model.loaded_model import Subject
from eval.probing import directions, logistic_probes, logit_lens, permutation_null
from eval.probing.probe_heads import Heads, read
from eval.resume import Arrays, Parts
from eval.stats import intervals
from eval.steering import summarize_strengths

N_RANDOM = 200  # random directions beside a measured one


class Others(NamedTuple):
    """The rows of each set of config.probing.transfer and config.probing.attributes."""

    transfers: dict[str, list[Labelled]]
    attributes: dict[str, list[Labelled]]


def others(config: EvalConfig) -> Others:
    """Read them; ConfigurationError where one has rows of one kind only."""
    found = Others(
        *(
            {uri: prompts.labelled(uri, config) for uri in uris}
            for uris in (config.probing.transfer, config.probing.attributes)
        )
    )
    for name, sets in (("probe_transfer", found.transfers), ("attributes", found.attributes)):
        for uri, rows in sets.items():
            _expect_both_kinds(rows, f"eval.{name} {uri}", "rows")
    return found


def unseen(given: Others, seen: Set[str]) -> Others:
    """The same, their transfers without the rows that the probes or the choice of heads will have
    seen.
    """
    fresh = {
        uri: [row for row in rows if row.id not in seen] for uri, rows in given.transfers.items()
    }
    for uri, rows in fresh.items():
        _expect_both_kinds(rows, f"eval.probing.transfer {uri}", "rows that no probe has seen")
    return given._replace(transfers=fresh)


def transfers(
    subject: Subject, heads: Heads, sets: Others, config: EvalConfig, parts: Parts
) -> tuple[Transfer, ...]:
    """The probes on each other labelled set."""
    return tuple(
        _transfer(uri, rows, subject, heads, config, parts) for uri, rows in sets.transfers.items()
    )


def entangled(
    subject: Subject, heads: Heads, sets: Others, config: EvalConfig, parts: Parts
) -> Entanglement | None:
    """The toxicity direction of each head beside those of other attributes, from all rows of each;
    None where there are none.
    """
    thetas, n_rows = [], {}
    for uri, rows in sets.attributes.items():
        made = parts.once(
            f"attribute-{digest(uri)[:8]}", partial(_attribute, subject, rows, config)
        )
        thetas.append(torch.from_numpy(made["theta_LNH"]))
        n_rows[uri] = len(rows)
    if not thetas:
        return None
    cosine_ALN = logit_lens.cosines(heads.directions.theta_LNH, thetas)
    size = thetas[0].shape[-1]
    return Entanglement(
        n_rows=n_rows,
        cosine={uri: float(of_one.mean()) for uri, of_one in zip(n_rows, cosine_ALN, strict=True)},
        maximum=float(cosine_ALN.max(dim=0).values.mean()),
        random=float(
            logit_lens.random_entanglement(len(thetas) + 1, size, N_RANDOM, config.seed).mean()
        ),
        welch=logit_lens.welch_bound(len(thetas) + 1, size),
    )


def lenses(
    subject: Subject, heads: Heads, listed_V: np.ndarray, config: EvalConfig
) -> tuple[Lens, ...]:
    """What the chosen heads write, together and layer by layer; nothing at other sites, whose
    shifts are no writing of heads.
    """
    if config.probing.site != "heads":
        return ()
    groups = {"all steered heads": heads.chosen}
    groups |= {
        f"layer {layer + 1}": [at for at in heads.chosen if at[0] == layer]
        for layer in sorted({at[0] for at in heads.chosen})
    }
    return tuple(
        _lens(subject, heads.directions, name, group, listed_V, config)
        for name, group in groups.items()
    )


def _expect_both_kinds(rows: list[Labelled], what: str, which: str) -> None:
    n_toxic = sum(prompts.labels_of(rows))
    if not 0 < n_toxic < len(rows):
        raise ConfigurationError(
            f"{what}: {n_toxic} of its {len(rows)} {which} are toxic; expected both kinds; check its #label="
        )


def _attribute(subject: Subject, rows: list[Labelled], config: EvalConfig) -> Arrays:
    found, labels_R = (
        read(subject, rows, config, lambda n: None),
        torch.tensor(prompts.labels_of(rows)),
    )
    of_layers = (
        found.of(layer, [row.id for row in rows]) for layer in range(len(found.values_LRNH))
    )
    thetas = [
        directions.class_means(x[:, None], labels_R.to(x.device)).theta_LNH for x in of_layers
    ]
    return {"theta_LNH": torch.cat(thetas).cpu().numpy()}


def _transfer(
    uri: str, rows: list[Labelled], subject: Subject, heads: Heads, config: EvalConfig, parts: Parts
) -> Transfer:
    labels = prompts.labels_of(rows)
    labels_R = torch.tensor(labels)
    made = parts.once(f"transfer-{digest(uri)[:8]}", partial(_scores, subject, rows, heads, config))
    scores_RLN = torch.from_numpy(made["scores_RLN"])
    correct_RLN = (scores_RLN > 0) == labels_R.bool()[:, None, None]
    layer, head = heads.chosen[0]
    return Transfer(
        uri=uri,
        label_rule=prompts.rule(uri, config).name,
        n_toxic=sum(labels),
        majority_accuracy=max(sum(labels), len(labels) - sum(labels)) / len(labels),
        best_head_accuracy=intervals.wilson(
            int(correct_RLN[:, layer, head].sum()), len(rows), "ratio"
        ),
        best_head_auroc=permutation_null.mean_auroc(scores_RLN[:, layer, head, None], labels_R),
        mean_accuracy=summarize_strengths.mean(
            correct_RLN.flatten(1).double().mean(1).tolist(), "ratio", config
        ),
        mean_auroc=permutation_null.mean_auroc(scores_RLN.flatten(1), labels_R),
    )


def _scores(subject: Subject, rows: list[Labelled], heads: Heads, config: EvalConfig) -> Arrays:
    found, made = read(subject, rows, config, lambda n: None), []
    n_heads = found.values_LRNH.shape[2]
    for layer in range(len(found.values_LRNH)):
        of_layer = (
            tensor[layer * n_heads : (layer + 1) * n_heads].to(found.device)
            for tensor in heads.fitted
        )
        made.append(
            logistic_probes.Probes(*of_layer)
            .scores(found.of(layer, [row.id for row in rows]))
            .cpu()
        )
    return {"scores_RLN": torch.stack(made, dim=1).numpy()}


def _lens(
    subject: Subject,
    found: directions.Directions,
    name: str,
    group: list[tuple[int, int]],
    listed_V: np.ndarray,
    config: EvalConfig,
) -> Lens:
    seen = logit_lens.lens(
        subject.model, found, group, listed_V, n_random=N_RANDOM, seed=config.seed
    )
    toxic, benign = (
        tuple(subject.tokenizer.decode([i]) for i in ids)
        for ids in (seen.toxic_ids, seen.benign_ids)
    )
    return Lens(
        group=name,
        toxic_tokens=toxic,
        benign_tokens=benign,
        toxic_share=seen.toxic_share,
        benign_share=seen.benign_share,
        random_share=float(seen.random_shares_B.mean()),
        random_high=float(np.quantile(seen.random_shares_B, 0.95)),
    )

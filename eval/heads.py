"""probe rows → which heads know, which way they point, and by how much that is more than chance

    rows ─▶ activations ─┬▶ probes (train rows) ─▶ heads (validation rows) ─▶ accuracy, AUROC, calibration, null (test rows)
                         └▶ θ, σ (train rows) ─▶ shift of the chosen heads, lens, angles to other attributes

Shapes: R rows, L layer, N head, H head dim, P = L·N problems, D = N·H.
"""

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_prep import randomness
from eval import activations, directions, geometry, probes, prompts, readability, steering
from eval.config import EvalConfig
from eval.record import Entanglement, Lens, ProbeNull
from eval.subject import Subject

CHANCE = 0.05  # a head is above chance where no more than this share of permutations has a head as good
N_RANDOM = 200  # random directions beside a measured one

Advance = Callable[[int], object]


class Heads(NamedTuple):
    """What the probes found. Test rows carry ids; tables are [L, N]; shift_LD is σθ of the chosen heads."""

    split: probes.Split
    test_ids: list[str]
    test_labels_R: Tensor
    directions: directions.Directions
    validation_LN: Tensor
    correct_RLN: Tensor
    auroc_LN: Tensor
    calibration_error_LN: Tensor
    null: ProbeNull | None
    chosen: list[tuple[int, int]]
    shift_LD: Tensor


def probe(subject: Subject, rows: list[prompts.Labelled], config: EvalConfig, advance: Advance) -> Heads:
    """Probe every head: fitted and directed on train rows, chosen on validation rows, judged on test rows."""
    labels = prompts.labels_of(rows)
    split = probes.split([row.group for row in rows], labels, config.seed)
    read = _read(subject, rows, config, advance)
    labels_R = torch.tensor(labels, device=read.values_RLNH.device)
    train, validation, test = (
        (read.values_RLNH[part].flatten(1, 2), labels_R[part]) for part in (split.train, split.validation, split.test)
    )
    fitted, table = probes.fit(*train, config.probe_l2), read.values_RLNH.shape[1:3]
    validation_LN = fitted.correct(*validation).double().mean(0).unflatten(0, table).cpu()
    scores_RP = fitted.scores(test[0])
    found = directions.find(config.direction, read.values_RLNH[split.train], train[1], fitted)
    chosen = directions.choose(validation_LN, config.top_heads)
    return Heads(
        split=split,
        test_ids=[rows[i].id for i in split.test],
        test_labels_R=test[1].cpu(),
        directions=found,
        validation_LN=validation_LN,
        correct_RLN=fitted.correct(*test).unflatten(1, table).cpu(),
        auroc_LN=readability.auroc(scores_RP, test[1]).unflatten(0, table).cpu(),
        calibration_error_LN=readability.calibration_error(scores_RP, test[1]).unflatten(0, table).cpu(),
        null=_null(rows, split, train[0], test[0], config),
        chosen=chosen,
        shift_LD=steering.unit_shift(found, chosen),
    )


def entangled(subject: Subject, heads: Heads, config: EvalConfig, advance: Advance) -> Entanglement | None:
    """The toxicity direction of each head beside those of config.attributes, from all rows of each; None where there are none."""
    thetas, n_rows = [], {}
    for uri in config.attributes:
        rows = prompts.labelled(uri, config)
        read = _read(subject, rows, config, advance)
        labels_R = torch.tensor(prompts.labels_of(rows), device=read.values_RLNH.device)
        thetas.append(directions.class_means(read.values_RLNH, labels_R).theta_LNH)
        n_rows[uri] = len(rows)
    if not thetas:
        return None
    cosine_ALN = geometry.cosines(heads.directions.theta_LNH, thetas)
    size = thetas[0].shape[-1]
    return Entanglement(
        n_rows=n_rows,
        cosine={uri: float(of_one.mean()) for uri, of_one in zip(n_rows, cosine_ALN, strict=True)},
        maximum=float(cosine_ALN.max(dim=0).values.mean()),
        random=float(geometry.random_entanglement(len(thetas) + 1, size, N_RANDOM, config.seed).mean()),
        welch=geometry.welch_bound(len(thetas) + 1, size),
    )


def lenses(subject: Subject, heads: Heads, listed_V: np.ndarray, config: EvalConfig) -> tuple[Lens, ...]:
    """What the chosen heads write, together and layer by layer; nothing at other sites, whose shifts are no writing of heads."""
    if config.site != "heads":
        return ()
    groups = {"all steered heads": heads.chosen}
    groups |= {
        f"layer {layer + 1}": [at for at in heads.chosen if at[0] == layer] for layer in sorted({at[0] for at in heads.chosen})
    }
    return tuple(_lens(subject, heads.directions, name, group, listed_V, config) for name, group in groups.items())


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


def _read(subject: Subject, rows: Sequence[prompts.Labelled], config: EvalConfig, advance: Advance) -> activations.Activations:
    tokens = subject.encode([row.text for row in rows])
    ids = [row.id for row in rows]
    return activations.collect(subject.model, ids, tokens, batch_size=config.batch_size, advance=advance, site=config.site)


def _null(
    rows: list[prompts.Labelled], split: probes.Split, train_RPH: Tensor, test_RPH: Tensor, config: EvalConfig
) -> ProbeNull | None:
    if not config.n_permutations:
        return None
    parts = []
    for part in (split.train, split.test):
        labels, groups = [rows[i].label for i in part], [rows[i].group for i in part]
        seed = randomness.key("probe null", config.seed, len(part))
        parts.append(np.vstack([labels, readability.permuted(labels, groups, config.n_permutations, seed)]))
    null = readability.max_t(train_RPH, parts[0], test_RPH, parts[1], config.probe_l2)
    return ProbeNull(
        n_permutations=config.n_permutations,
        best_accuracy=float(np.quantile(null.best_B, 1 - CHANCE)),
        n_above=int((null.p_P <= CHANCE).sum()),
        best_p=float(null.p_P.min()),
        mean_p=null.mean_p,
    )


def _lens(
    subject: Subject,
    found: directions.Directions,
    name: str,
    group: list[tuple[int, int]],
    listed_V: np.ndarray,
    config: EvalConfig,
) -> Lens:
    seen = geometry.lens(subject.model, found, group, listed_V, n_random=N_RANDOM, seed=config.seed)
    toxic, benign = (tuple(subject.tokenizer.decode([i]) for i in ids) for ids in (seen.toxic_ids, seen.benign_ids))
    return Lens(
        group=name,
        toxic_tokens=toxic,
        benign_tokens=benign,
        toxic_share=seen.toxic_share,
        benign_share=seen.benign_share,
        random_share=float(seen.random_shares_B.mean()),
        random_high=float(np.quantile(seen.random_shares_B, 0.95)),
    )

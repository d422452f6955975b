"""ENTRY: train a toxicity scorer on labelled rows, over the embeddings of any text encoder

    python eval/tools/train_scorer.py --encoder ENCODER_FOLDER --out SCORER_FOLDER \\
        --rows 'tweets.csv#text=tweet&label=class=2' 'posts.csv#label=sexist' …
    … --set 'eval.scoring.scorer=trained:SCORER_FOLDER#encoder=ENCODER_FOLDER'

For an attribute that no published classifier has, and where there is no network. Each URI of --rows
is one labelled set, with a rule for its label (eval/inputs/label_rules.py).

- Each set gives as many toxic rows as others, so that neither its own share of toxic rows nor its
  style tells the label.
- Of each set, 16 : 4 : 5 rows are for training, for the penalty and held out (split_rows); texts
  are in one part and in one set.
- The penalty with the least log loss on validation rows is used, on training and validation rows.
- The record beside the head has the AUROC on the held-out rows and, of each set, that of a head
  which was trained on the other sets alone: the one to expect on text of another kind.

Shapes: R rows, D width of the encoder.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data_prep.core import storage, telemetry
from data_prep.core.command import entry_command
from data_prep.core.errors import ConfigurationError
from data_prep.core.records import digest, to_json
from data_prep.scorers import trained as trained_scorer
from data_prep.scorers.text_encoder import FILE_PATTERNS, TextEncoder
from data_prep.scorers.trained import (
    ENCODER_NAME,
    FORMAT_VERSION,
    HEAD_NAME,
    RECORD_NAME,
    HeldOutAuroc,
    LogisticHead,
    TrainedHead,
    TrainingRows,
)
from eval.config import ProbingConfig
from eval.inputs import text_rows
from eval.inputs.labelled_rows import LabelledRow, LabelledSet, labels_of, read_labelled_rows
from eval.inputs.text_rows import Reason, text_key
from eval.probing import logistic_probes, row_split
from eval.probing.row_split import RowSplit
from eval.stats import roc

MIN_ROWS_PER_CLASS = 25  # of a set: five of them are held out
L2_CANDIDATES = (1.0, 10.0, 100.0, 1000.0)
ALL_ROWS = 1 << 60


class EmbeddedSet(NamedTuple):
    """The rows of one set that are used, their embeddings [R, D], labels [R] and split."""

    uri: str
    labelled: LabelledSet
    rows: list[LabelledRow]
    left_out: dict[str, int]
    embeddings_RD: np.ndarray
    split: RowSplit

    def part(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings and labels of these rows."""
        return self.embeddings_RD[rows], np.array(labels_of(self.rows))[rows]


@entry_command
def main() -> int:
    arguments = _parse_arguments()
    telemetry.configure()
    storage.check_writable(arguments.out)
    read = read_sets(arguments.rows, arguments.seed, arguments.max_rows_per_class)
    encoder = TextEncoder(arguments.encoder, arguments.max_length)
    sets = [_embed(encoder, *one, seed=arguments.seed) for one in read]
    head, record = train(sets, encoder, arguments.seed, arguments.max_rows_per_class)
    write(arguments.out, head, record)
    if arguments.copy_encoder:
        copy_encoder(arguments.encoder, storage.join(arguments.out, ENCODER_NAME))
    print(summary(record), end="")
    return 0


class ChosenRows(NamedTuple):
    """A labelled set and those of its rows that are used."""

    uri: str
    labelled: LabelledSet
    rows: list[LabelledRow]
    left_out: dict[str, int]


def read_sets(uris: Sequence[str], seed: int, max_rows_per_class: int) -> list[ChosenRows]:
    """The labelled sets, balanced, each text in the first set that has it.

    Raises ConfigurationError for labels that cannot be read and for a set with fewer than
    MIN_ROWS_PER_CLASS rows of a class.
    """
    seen: set[str] = set()
    sets = []
    probing = ProbingConfig(n_rows=ALL_ROWS)
    for uri in uris:
        labelled = read_labelled_rows(uri, probing, seed, setting="--rows")
        new = [row for row in labelled.rows if text_key(row.text) not in seen]
        seen |= {text_key(row.text) for row in new}
        by_label = {label: [row for row in new if row.label == label] for label in (0, 1)}
        n = min(max_rows_per_class, *map(len, by_label.values()))
        n_repeated = len(labelled.rows) - len(new)
        left_out = dict(labelled.summary.left_out)
        if n_repeated:
            left_out[Reason.OTHER_SET.value] = n_repeated
        if n < MIN_ROWS_PER_CLASS:
            raise ConfigurationError(
                f"--rows {uri}: {len(by_label[1])} of its {len(new)} texts are toxic; expected at "
                f"least {MIN_ROWS_PER_CLASS} of each class; "
                f"{text_rows.in_words(labelled.summary.n_read, left_out)}; check its #label=, add "
                "rows, or leave the set out"
            )
        left_out["not needed"] = len(new) - 2 * n
        sets.append(ChosenRows(uri, labelled, by_label[0][:n] + by_label[1][:n], left_out))
    return sets


def train(
    sets: Sequence[EmbeddedSet], encoder: TextEncoder, seed: int, max_rows_per_class: int
) -> tuple[LogisticHead, TrainedHead]:
    """A head on the rows of all sets, and its record."""
    head, l2 = fit(sets)
    all_held_out = [one.part(one.split.test) for one in sets]
    score_R = np.concatenate([head.probabilities(x_RD) for x_RD, _ in all_held_out])
    label_R = np.concatenate([y_R for _, y_R in all_held_out])
    record = TrainedHead(
        format_version=FORMAT_VERSION,
        encoder_digest=encoder.digest,
        encoder_type=encoder.model_type,
        width=encoder.width,
        max_length=encoder.max_length,
        head_sha256=hashlib.sha256(trained_scorer.head_bytes(head)).hexdigest(),
        seed=seed,
        max_rows_per_class=max_rows_per_class,
        l2=l2,
        l2_candidates=L2_CANDIDATES,
        sets=tuple(_summary_of_set(sets, i, head) for i in range(len(sets))),
        held_out=auroc(score_R, label_R),
        calibration_error=float(roc.calibration_error(score_R[:, None], label_R == 1)[0]),
    )
    return head, record


def fit(sets: Sequence[EmbeddedSet]) -> tuple[LogisticHead, float]:
    """A head on the training and validation rows of the sets, and its penalty: that of the least
    log loss on validation rows of a head on training rows.
    """
    train_x, train_y = _joined([one.part(one.split.train) for one in sets])
    check_x, check_y = _joined([one.part(one.split.validation) for one in sets])
    losses = {
        l2: _log_loss(fit_head(train_x, train_y, l2).probabilities(check_x), check_y)
        for l2 in L2_CANDIDATES
    }
    l2 = min(losses, key=lambda candidate: losses[candidate])
    both_x, both_y = _joined([(train_x, train_y), (check_x, check_y)])
    return fit_head(both_x, both_y, l2), l2


def fit_head(x_RD: np.ndarray, label_R: np.ndarray, l2: float) -> LogisticHead:
    """An L2 logistic regression on standardised embeddings, as a head on the embeddings
    themselves.
    """
    probes = logistic_probes.fit(torch.from_numpy(x_RD)[:, None], torch.from_numpy(label_R), l2)
    weight_D = (probes.weight_PH / probes.scale_PH)[0].numpy()
    return LogisticHead(
        weight_D, float(probes.bias_P[0]) - float(weight_D @ probes.mean_PH[0].numpy())
    )


def auroc(score_R: np.ndarray, label_R: np.ndarray) -> HeldOutAuroc:
    """AUROC with DeLong's interval, as the record has it."""
    estimate = roc.auroc_of_scores(score_R, label_R == 1)
    assert estimate.value is not None
    return HeldOutAuroc(value=estimate.value, low=estimate.low, high=estimate.high, n=estimate.n)


def write(folder: str, head: LogisticHead, record: TrainedHead) -> None:
    """Publish the head, then the record. Raises ConfigurationError if the folder holds another."""
    place = storage.join(folder, RECORD_NAME)
    if storage.exists(place) and storage.read(place) != to_json(record).encode():
        raise ConfigurationError(
            f"{folder} holds another trained scorer; nothing was written: name another --out, or "
            "delete the folder"
        )
    storage.write(storage.join(folder, HEAD_NAME), trained_scorer.head_bytes(head))
    storage.save(record, place)


def copy_encoder(source: Path, folder: str) -> None:
    """Copy the files of an encoder that decide an embedding."""
    for path in sorted({path for pattern in FILE_PATTERNS for path in source.glob(pattern)}):
        storage.upload(path, storage.join(folder, path.name))


def place_free_name(uri: str) -> str:
    """The URI without the folders of its file: `/data/posts.csv#label=x` → `posts.csv#label=x`."""
    base, found, options = uri.partition("#")
    return f"{base.rsplit('/', 1)[-1]}{found}{options}"


def summary(record: TrainedHead) -> str:
    """A table of the sets, for the terminal."""
    lines = [
        f"trained-{digest(record)}: {record.encoder_type}, {record.width} wide, l2 {record.l2:g}",
        f"{'rows':44} {'trained':>8} {'held out':>8}  AUROC held out          without this set",
    ]
    for one in record.sets:
        other = _interval(one.without_this_set) if one.without_this_set else "–"
        lines.append(
            f"{one.name[-44:]:44} {one.n_trained:8,} {one.n_held_out:8,}  "
            f"{_interval(one.held_out):22}  {other}"
        )
    lines.append(
        f"{'all':44} {sum(one.n_trained for one in record.sets):8,} {record.held_out.n:8,}  "
        f"{_interval(record.held_out):22}  calibration error {record.calibration_error:.3f}"
    )
    return "\n".join(lines) + "\n"


def _embed(
    encoder: TextEncoder,
    uri: str,
    labelled: LabelledSet,
    rows: list[LabelledRow],
    left_out: dict[str, int],
    *,
    seed: int,
) -> EmbeddedSet:
    telemetry.logger.info("%s: embedding %s texts", uri, f"{len(rows):,}")
    embeddings_RD = encoder.embed([row.text for row in rows])
    split = row_split.split_rows([row.id for row in rows], labels_of(rows), seed)
    return EmbeddedSet(uri, labelled, rows, left_out, embeddings_RD, split)


def _summary_of_set(sets: Sequence[EmbeddedSet], i: int, head: LogisticHead) -> TrainingRows:
    one, others = sets[i], [*sets[:i], *sets[i + 1 :]]
    x_RD, label_R = one.part(one.split.test)
    all_x_RD, all_label_R = one.part(range(len(one.rows)))
    without = auroc(fit(others)[0].probabilities(all_x_RD), all_label_R) if others else None
    return TrainingRows(
        name=place_free_name(one.uri),
        rule=one.labelled.rule,
        rows_digest=digest(sorted((row.text, row.label) for row in one.rows)),
        n_read=one.labelled.summary.n_read,
        left_out=dict(sorted(one.left_out.items())),
        n_trained=len(one.split.train) + len(one.split.validation),
        n_held_out=len(one.split.test),
        held_out=auroc(head.probabilities(x_RD), label_R),
        without_this_set=without,
    )


def _joined(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def _log_loss(probability_R: np.ndarray, label_R: np.ndarray) -> float:
    p_R = np.clip(np.where(label_R == 1, probability_R, 1 - probability_R), 1e-12, 1)
    return float(-np.log(p_R).mean())


def _interval(value: HeldOutAuroc) -> str:
    if value.low is None or value.high is None:
        return f"{value.value:.3f}"
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument(
        "--encoder", required=True, type=Path, metavar="FOLDER", help="a local text encoder"
    )
    parser.add_argument(
        "--rows",
        required=True,
        nargs="+",
        metavar="URI",
        help="labelled sets: URI#text=FIELD&label=RULE, each reported apart",
    )
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="for the head and its record"
    )
    parser.add_argument(
        "--copy-encoder", action="store_true", help="copy the encoder into FOLDER, too"
    )
    parser.add_argument(
        "--max-rows-per-class",
        type=_positive,
        default=2000,
        metavar="N",
        help="toxic rows per set, at most, and as many others (default 2000)",
    )
    parser.add_argument(
        "--max-length",
        type=_positive,
        metavar="TOKENS",
        help="of a text that are read (default: 256, or as many as the encoder reads)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice and split of rows")
    return parser.parse_args()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())

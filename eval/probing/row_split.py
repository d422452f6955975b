"""split labelled rows into train, validation and test, whole groups at a time

Rows alone and matched pairs are split within each pattern of labels, so that every part has the
same share of each. Natural groups (a user, a target group) differ in size and labels. There, of
N_TRIES random orders, that split is taken whose parts are nearest to their share of each label: a
group goes to the part that lacks the most rows, so no part exceeds its share by a whole group.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError

# one row in five is for test (Li et al. 2025, §4: 4:1), then one in five of the rest for validation
TEST_DIVISOR = 5
SHARES = np.array([16, 4, 5]) / 25  # of train, validation and test
PAIR = 2
N_TRIES = 64


class RowSplit(NamedTuple):
    """Row positions, ascending."""

    train: list[int]
    validation: list[int]
    test: list[int]


def split_rows(
    groups: Sequence[str], labels: Sequence[int], seed: int, n_test: int = 0
) -> RowSplit:
    """Split rows 16 : 4 : 5, by a keyed hash of the groups' names; the order of rows has no
    influence. Raises ConfigurationError if a part lacks a label.

    n_test: so many rows at the end are the test rows, if there are any; the others are split
    4 : 1 into train and validation.
    """
    if n_test:
        n_own = len(groups) - n_test
        own = _split_in_three(groups[:n_own], labels[:n_own], seed)
        train = sorted(own.train + own.validation)
        return RowSplit(train, own.test, list(range(n_own, len(groups))))
    return _split_in_three(groups, labels, seed)


def _split_in_three(groups: Sequence[str], labels: Sequence[int], seed: int) -> RowSplit:
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    if max(map(len, members.values()), default=0) <= PAIR:
        split = _split_each_pattern(members, labels, seed)
    else:
        split = _split_by_size(members, labels, seed)
    for label in _lacks(split, labels):
        raise ConfigurationError(_no_split(members, labels, label))
    return split


def _split_each_pattern(
    members: Mapping[str, Sequence[int]], labels: Sequence[int], seed: int
) -> RowSplit:
    """The groups of each pattern of labels in the proportion of the split."""
    groups_by_labels: dict[tuple[int, ...], list[str]] = {}
    for group, rows in members.items():
        key = tuple(sorted(labels[i] for i in rows))
        groups_by_labels.setdefault(key, []).append(group)
    split = RowSplit([], [], [])
    for alike in groups_by_labels.values():
        order = [alike[i] for i in keyed_random.shuffled_positions(alike, "probe split", seed)]
        n_test = len(order) // TEST_DIVISOR
        n_validation = (len(order) - n_test) // TEST_DIVISOR
        for position, group in enumerate(order):
            if position < n_test:
                split.test.extend(members[group])
            elif position < n_test + n_validation:
                split.validation.extend(members[group])
            else:
                split.train.extend(members[group])
    return RowSplit(*map(sorted, split))


def _split_by_size(
    members: Mapping[str, Sequence[int]], labels: Sequence[int], seed: int
) -> RowSplit:
    """The best of N_TRIES splits by size."""
    names = sorted(members)
    counts = {  # benign and toxic rows
        name: np.bincount([labels[i] for i in members[name]], minlength=2) for name in names
    }
    target_32 = np.outer(SHARES, sum(counts.values()))
    best_cost, best_parts = np.inf, np.zeros(len(names), dtype=int)
    for trial in range(N_TRIES):
        parts = np.empty(len(names), dtype=int)
        missing_32 = target_32.copy()
        missing_3 = missing_32.sum(1)
        for i in keyed_random.shuffled_positions(names, "probe split by size", seed, trial):
            part = int(missing_3.argmax())
            missing_32[part] -= counts[names[i]]
            missing_3[part] -= len(members[names[i]])
            parts[i] = part
        lacks_a_label = (target_32 - missing_32 < 0.5).any()
        cost = np.abs(missing_32).sum() + lacks_a_label * len(labels) * 10
        if cost < best_cost:
            best_cost, best_parts = cost, parts
    split = RowSplit([], [], [])
    for name, part in zip(names, best_parts, strict=True):
        split[part].extend(members[name])
    return RowSplit(*map(sorted, split))


def _lacks(split: RowSplit, labels: Sequence[int]) -> list[int]:
    """The labels that a part of the split has no row of."""
    return [label for label in (0, 1) if not all(any(labels[i] == label for i in p) for p in split)]


def _no_split(members: Mapping[str, Sequence[int]], labels: Sequence[int], label: int) -> str:
    n_rows = sum(value == label for value in labels)
    n_groups = sum(any(labels[i] == label for i in rows) for rows in members.values())
    largest = max(map(len, members.values())) / len(labels)
    return (
        f"probe rows with label {label}: got {n_rows} of {len(labels)}, too few for train, "
        f"validation and test, in {n_groups} groups, the largest of which has {largest:.0%} of the "
        "rows; expected at least 6 single rows or pairs, or 3 groups, of each label; give more "
        "rows, or check the label field, eval.probing.label_threshold and eval.probing.group_field"
    )

"""shared prefixes: which rows of tokens go behind one pass over their beginning

    A few-shot benchmark asks all questions of a subject behind the same examples:

        examples ─┬─ question 1
                  ├─ question 2            examples + 3 questions pass, not 3 × examples + 3
                  └─ question 3            questions

The rows form a tree of their common beginnings. A group is one node of it, so a row shares one
prefix at most: the choices of a question share the question, or all of them share the examples,
whichever passes fewer tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MIN_TOKENS = 8  # a shorter prefix saves less than its own pass and the copies of its keys cost


class PrefixGroup(NamedTuple):
    """Rows that share their first `n_shared` tokens; 0 for a row that shares nothing."""

    n_shared: int
    members: list[int]


def group_rows(rows: Sequence[np.ndarray], limits: Sequence[int]) -> list[PrefixGroup]:
    """Distinct rows in groups, every row in one, so that few tokens pass in all.

    limits: for each row, how many of its tokens may be shared.
    """
    order = sorted(range(len(rows)), key=lambda r: rows[r].astype(">u4").tobytes())
    open_nodes: list[tuple[int, list[PrefixGroup]]] = []  # of the tree, from its root to this row
    groups: list[PrefixGroup] = []
    for place, r in enumerate(order):
        groups = [PrefixGroup(0, [r])]
        following = order[place + 1] if place + 1 < len(order) else None
        n_common = 0
        if following is not None:
            n_common = min(_n_common(rows[r], rows[following]), limits[r], limits[following])
        while open_nodes and open_nodes[-1][0] > n_common:
            depth, before = open_nodes.pop()
            groups = _join(depth, before + groups)
        if open_nodes and open_nodes[-1][0] == n_common:
            open_nodes[-1][1].extend(groups)
        else:
            open_nodes.append((n_common, groups))
    return open_nodes[0][1] if open_nodes else []


def _join(depth: int, groups: list[PrefixGroup]) -> list[PrefixGroup]:
    """The groups below a node; those that pass fewer tokens behind its `depth` tokens are one."""
    if depth < MIN_TOKENS:
        return groups
    kept, joined, n_saved = [], [], -depth
    for group in groups:
        n_members = len(group.members)
        saved = depth * n_members - group.n_shared * (n_members - 1)
        if saved > 0:
            joined += group.members
            n_saved += saved
        else:
            kept.append(group)
    return [*kept, PrefixGroup(depth, joined)] if n_saved > 0 else groups


def _n_common(a_T: np.ndarray, b_T: np.ndarray) -> int:
    n = min(len(a_T), len(b_T))
    differs = a_T[:n] != b_T[:n]
    return int(differs.argmax()) if differs.any() else n

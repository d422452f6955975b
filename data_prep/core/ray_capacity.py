"""what a Ray cluster's nodes can give, to refuse requests that none can meet

Ray keeps such a request waiting forever. Nodes that an autoscaler may add count as well.
"""

from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

from data_prep.core import telemetry
from data_prep.core.errors import ClusterError

LOG_SECONDS = 300.0  # until the first line about a wait; the next ones come ever more rarely
MAX_LOG_SECONDS = 3600.0
LOST_SECONDS = 600.0  # a node that failed is replaced by then, or not at all


class NodeGroup(NamedTuple):
    """Nodes that are alike: the resources of one, and how many there are or may be."""

    resources: dict[str, float]
    n_nodes: float

    def fits(self, resource: str, per_worker: float = 1.0) -> float:
        """How many workers that need this much of the resource fit on all nodes of the group."""
        return self.resources.get(resource, 0.0) // per_worker * self.n_nodes


def node_groups() -> list[NodeGroup]:
    """The nodes of the cluster; those that its autoscaler may start, if these can do more."""
    import ray

    alive = [NodeGroup(node["Resources"], 1) for node in ray.nodes() if node["Alive"]]
    possible = _autoscaling_groups()
    has_more = sum(group.n_nodes for group in possible) > len(alive)
    return possible if has_more else alive


def largest(groups: list[NodeGroup], resource: str, beside: str | None = None) -> int:
    """The most of a resource that one node has, among nodes that have any of `beside`."""
    sizes = [
        group.resources.get(resource, 0.0)
        for group in groups
        if beside is None or group.resources.get(beside, 0.0) >= 1
    ]
    return int(max(sizes, default=0.0))


def wait_for_one(references: list[Any], why_impossible: Callable[[], str]) -> Any:
    """The first of these Ray tasks that ends; long waits are logged.

    why_impossible: a text if the cluster cannot run the tasks now, else "". Raises ClusterError
    with it once that has been so for LOST_SECONDS.
    """
    import ray

    possible_at = start = monotonic()
    pause = LOG_SECONDS
    while True:
        ended, _ = ray.wait(references, num_returns=1, timeout=pause)
        if ended:
            return ended[0]
        now = monotonic()
        reason = why_impossible()
        pause = LOG_SECONDS if reason else min(2 * pause, MAX_LOG_SECONDS)
        if not reason:
            possible_at = now
        elif now - possible_at >= LOST_SECONDS:
            raise ClusterError(
                f"{reason}, and nothing has changed for {now - possible_at:.0f} s; add nodes, then "
                "run the same command again: it continues from what is done"
            )
        telemetry.logger.info(
            "waiting for %d Ray tasks, none of which has ended for %.0f s; free: %s%s",
            len(references),
            now - start,
            _free(),
            f" ({reason})" if reason else "",
        )


def _free() -> str:
    import ray

    available, total = ray.available_resources(), ray.cluster_resources()
    return ", ".join(
        f"{available.get(name, 0):g} of {total[name]:g} {name}s"
        for name in ("CPU", "GPU")
        if name in total
    )


def _autoscaling_groups() -> list[NodeGroup]:
    """The groups of nodes that the cluster's autoscaler reports; empty if it has none."""
    try:
        from ray._private.state import state

        config = state.get_cluster_config()
    except (ImportError, AttributeError):  # not a public interface
        return []
    return [
        NodeGroup(
            {name: float(amount) for name, amount in group.resources.items()},
            group.max_count if group.max_count >= 0 else float("inf"),
        )
        for group in (config.node_group_configs if config else [])
    ]

"""fit a sweep to the cluster: how many runs at a time, and how many CPUs per evaluation"""

from math import inf

from data_prep.core import ray_capacity
from data_prep.core.errors import ConfigurationError
from data_prep.core.ray_capacity import NodeGroup
from data_prep.core.settings import evolve
from launch.experiment import Experiment

MAX_RUNS = 1000  # at a time, on a cluster without a limit


def n_concurrent_runs(experiment: Experiment) -> int:
    """How many runs the cluster can train at a time; a ConfigurationError if not even one."""
    if reason := why_no_run_fits(experiment):
        raise ConfigurationError(reason)
    available = _available(experiment, ray_capacity.node_groups())
    return MAX_RUNS if available == inf else int(available) // experiment.n_ranks


def why_no_run_fits(experiment: Experiment) -> str:
    """Why the cluster cannot train one run, with what to change; empty if it can."""
    groups = ray_capacity.node_groups()
    resource = _resource(experiment)
    available = _available(experiment, groups)
    if available >= experiment.n_ranks:
        return ""
    fewer = _fewer_ranks(experiment, int(available))
    remedy = "or train on CPU cores: --set use_gpu=false" if experiment.use_gpu else "with CPUs"
    if fewer:
        remedy = f"or use fewer ranks: --set n_ranks={fewer}"
    return (
        f"one run takes {experiment.n_ranks} ranks with a {resource} each, the cluster has "
        f"{available:g} ({_describe(groups, resource)}) and cannot grow beyond it; add nodes, "
        f"{remedy}"
    )


def evaluation_cpus(experiment: Experiment) -> int:
    """CPUs of one evaluation: as many as a run has ranks, and no more than one node has.

    An evaluation is one task on one node. Raises ConfigurationError if no node can run it.
    """
    beside = "GPU" if experiment.use_gpu else None
    groups = ray_capacity.node_groups()
    n_cpus = ray_capacity.largest(groups, "CPU", beside)
    if n_cpus < 1:
        needed = "a CPU and a GPU" if beside else "a CPU"
        raise ConfigurationError(
            f"an evaluation takes {needed} of one node, and no node has them "
            f"({_describe(groups, beside or 'CPU')}); add such a node, or evaluate elsewhere with "
            "eval/evaluate_run.py"
        )
    return min(experiment.n_ranks, n_cpus)


def why_stuck(experiment: Experiment, is_training: bool, evaluation_cpus: int) -> str:
    """Why the cluster, as it is now, can run nothing that was started; empty if it can.

    evaluation_cpus: what an evaluation that was started asks for; 0 if there is none.
    """
    reason = why_no_run_fits(experiment) if is_training else ""
    beside = "GPU" if experiment.use_gpu else None
    n_cpus = ray_capacity.largest(ray_capacity.node_groups(), "CPU", beside)
    if evaluation_cpus and n_cpus >= evaluation_cpus:
        return ""
    if evaluation_cpus and not is_training:
        reason = f"an evaluation asks for {evaluation_cpus} CPUs of one node, and the largest "
        reason += f"usable node has {n_cpus}"
    return reason


def _available(experiment: Experiment, groups: list[NodeGroup]) -> float:
    """How many ranks fit on the nodes."""
    return sum(group.fits(_resource(experiment)) for group in groups)


def _resource(experiment: Experiment) -> str:
    return "GPU" if experiment.use_gpu else "CPU"


def _fewer_ranks(experiment: Experiment, most: int) -> int:
    """The largest number of ranks up to `most` that the settings allow, 0 if there is none."""
    for n_ranks in range(most, 0, -1):
        try:
            evolve(experiment, {"n_ranks": n_ranks})
        except ConfigurationError:
            continue
        return n_ranks
    return 0


def _describe(groups: list[NodeGroup], resource: str) -> str:
    sizes = sorted((int(group.resources.get(resource, 0)) for group in groups), reverse=True)
    shown = ", ".join(map(str, sizes[:8])) + (", …" if len(sizes) > 8 else "")
    return f"{resource}s per node: {shown or 'no node'}"

"""What a cluster can never give is refused at once, with a remedy that works."""

import re
from math import inf

import pytest

from data_prep.core import ray_capacity
from data_prep.core.errors import ClusterError, ConfigurationError
from data_prep.core.ray_capacity import NodeGroup
from data_prep.core.settings import evolve
from launch.cluster import cluster_fit
from launch.experiment import Experiment
from launch.recipes import registry


def experiment(n_ranks: int, global_batch: int, *, use_gpu: bool = False) -> Experiment:
    settings = {"n_ranks": n_ranks, "train.global_batch": global_batch, "use_gpu": use_gpu}
    return evolve(registry.named("laptop"), settings)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch):
    """nodes(*groups): the groups of nodes that the cluster has."""

    def use(*groups: tuple[dict[str, float], float]) -> None:
        node_groups = [NodeGroup(*group) for group in groups]
        monkeypatch.setattr(ray_capacity, "node_groups", lambda: node_groups)

    return use


@pytest.mark.parametrize(
    ("n_ranks", "global_batch", "cpus", "suggested"),
    [(9, 9, [6], 3), (12, 12, [5, 6], 6), (4, 8, [2, 1.5], 2), (7, 7, [6], 1), (16, 32, [15], 8)],
)
def test_the_number_of_ranks_suggested_is_accepted(nodes, n_ranks, global_batch, cpus, suggested):
    nodes(*(({"CPU": float(size)}, 1) for size in cpus))
    requested = experiment(n_ranks, global_batch)
    with pytest.raises(ConfigurationError, match=f"takes {n_ranks} ranks.*CPUs per node") as error:
        cluster_fit.n_concurrent_runs(requested)
    (words,) = re.findall(r"--set (n_ranks=\d+)", str(error.value))
    assert words == f"n_ranks={suggested}"
    repaired = evolve(requested, {"n_ranks": suggested})
    assert cluster_fit.n_concurrent_runs(repaired) >= 1


def test_ranks_on_gpus_count_gpus_and_name_the_way_without(nodes):
    nodes(({"CPU": 8.0, "GPU": 2.0}, 2), ({"CPU": 64.0}, 1))
    assert cluster_fit.n_concurrent_runs(experiment(2, 8, use_gpu=True)) == 2
    assert cluster_fit.evaluation_cpus(experiment(4, 8, use_gpu=True)) == 4
    assert cluster_fit.evaluation_cpus(experiment(16, 16, use_gpu=True)) == 8
    nodes(({"CPU": 64.0}, 1))
    with pytest.raises(ConfigurationError, match=r"a GPU each.*--set use_gpu=false"):
        cluster_fit.n_concurrent_runs(experiment(2, 8, use_gpu=True))
    with pytest.raises(ConfigurationError, match="a CPU and a GPU of one node"):
        cluster_fit.evaluation_cpus(experiment(2, 8, use_gpu=True))


def test_an_evaluation_asks_for_no_more_cpus_than_one_node_has(nodes):
    nodes(({"CPU": 2.0}, 1), ({"CPU": 3.0}, 2))
    requested = experiment(8, 8)
    assert cluster_fit.n_concurrent_runs(requested) == 1
    assert cluster_fit.evaluation_cpus(requested) == 3
    assert cluster_fit.evaluation_cpus(experiment(2, 8)) == 2


def test_nodes_that_an_autoscaler_may_add_count(nodes):
    nodes(({"CPU": 4.0}, inf), ({}, 1))
    assert cluster_fit.n_concurrent_runs(experiment(16, 16)) == cluster_fit.MAX_RUNS
    assert cluster_fit.evaluation_cpus(experiment(16, 16)) == 4


def test_a_started_task_that_no_node_can_run_any_more_is_noticed(nodes):
    requested = experiment(4, 8)
    nodes(({"CPU": 2.0}, 2))
    assert cluster_fit.why_stuck(requested, True, 2) == ""
    nodes(({"CPU": 2.0}, 1))
    assert cluster_fit.why_stuck(requested, True, 2) == ""  # the evaluation can run
    assert "4 ranks" in cluster_fit.why_stuck(requested, True, 0)
    nodes(({"CPU": 1.0}, 1))
    assert "2 CPUs of one node" in cluster_fit.why_stuck(requested, False, 2)


def test_a_real_cluster_refuses_what_it_cannot_give(ray_cluster: None, monkeypatch, caplog):
    import ray

    assert ray_capacity.node_groups()[0].resources["CPU"] == 2
    with pytest.raises(ConfigurationError, match=r"cluster has 2 .*--set n_ranks=1$"):
        cluster_fit.n_concurrent_runs(experiment(9, 9))
    assert cluster_fit.evaluation_cpus(experiment(9, 9)) == 2
    monkeypatch.setattr(ray_capacity, "LOG_SECONDS", 0.1)
    monkeypatch.setattr(ray_capacity, "LOST_SECONDS", 0.3)
    task = ray.remote(num_cpus=99)(lambda: None).remote()
    with pytest.raises(ClusterError, match=r"no node has 99 CPUs, and nothing has changed"):
        ray_capacity.wait_for_one([task], lambda: "no node has 99 CPUs")
    ray.cancel(task)
    assert ray_capacity.wait_for_one([ray.put(1)], lambda: "unused")

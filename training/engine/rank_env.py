"""rank and world size of this process, from torchrun, DeepSpeed, Ray or Slurm variables

torchrun, DeepSpeed and Ray set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. `srun`
gives the same facts under other names, and leaves the rendezvous to us: it is the first host of the
job step, and a port derived from the job and the step, so that two steps on one host do not
collide. A torchrun or deepspeed that srun started sets its own variables, and those are used.
"""

import os
import re
from collections.abc import Mapping

from data_prep.core.errors import ConfigurationError

PORTS = range(20_000, 32_000)  # below the ephemeral ports that operating systems assign


def rank_and_world_size() -> tuple[int, int]:
    """(rank, world size) as the launcher set them; (0, 1) under plain python."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def torch_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """torch's variables to add to the environment of a process that srun started; else none."""
    started_by_srun = "SLURM_STEP_ID" in environment and "SLURM_PROCID" in environment
    if "RANK" in environment or not started_by_srun:
        # A batch script without srun is one process, whatever SLURM_NTASKS says.
        return {}
    job = int(environment.get("SLURM_JOB_ID", "0"))
    step = int(environment["SLURM_STEP_ID"])
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    rendezvous = {
        "MASTER_ADDR": first_host(hosts),
        "MASTER_PORT": str(PORTS[(job * 31 + step) % len(PORTS)]),
    }
    n_tasks = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS", "1")
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": n_tasks,
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
    } | {name: environment.get(name, value) for name, value in rendezvous.items()}


def first_host(node_list: str) -> str:
    """The first host of a Slurm node list: "gpu[003-006,9],login" starts with gpu003."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\]([^,\[]*))?", node_list)
    if not match:
        raise ConfigurationError(
            f"Slurm's node list is {node_list!r}, expected names like gpu[03-06]; "
            "set MASTER_ADDR to the first host"
        )
    return "".join(part or "" for part in match.groups())

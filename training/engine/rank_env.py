"""which rank this process is: torchrun's, deepspeed's and Ray's variables, or Slurm's said in their
words

Everybody but Slurm sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Under `srun` the
same facts have other names, and the rendezvous is ours to choose: the first host of the step, and a
port that follows from the job and the step, so that two steps on one host do not meet. A torchrun
or deepspeed that srun started has set its own variables, and those count.
"""

import os
import re
from collections.abc import Mapping

from data_prep.core.errors import ConfigurationError

PORTS = range(20_000, 32_000)  # below those that systems hand out


def world() -> tuple[int, int]:
    """(rank, world size) as the launcher gave them; (0, 1) under plain python."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def in_torchs_words(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to the environment of a process that srun started; nothing for any other."""
    if (
        "RANK" in environment
        or "SLURM_STEP_ID" not in environment
        or "SLURM_PROCID" not in environment
    ):
        return {}  # also in a batch script without srun, which is one process whatever SLURM_NTASKS says
    job, step = int(environment.get("SLURM_JOB_ID", "0")), int(environment["SLURM_STEP_ID"])
    rendezvous = {
        "MASTER_ADDR": first_host(
            environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
        ),
        "MASTER_PORT": str(PORTS[(job * 31 + step) % len(PORTS)]),
    }
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment.get("SLURM_STEP_NUM_TASKS")
        or environment.get("SLURM_NTASKS", "1"),
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
    } | {name: environment.get(name, value) for name, value in rendezvous.items()}


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list: "gpu[003-006,9],login" begins with gpu003."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\]([^,\[]*))?", nodes)
    if not match:
        raise ConfigurationError(
            f"Slurm's node list is {nodes!r}, expected names like gpu[03-06]; set MASTER_ADDR to the first host"
        )
    return "".join(part or "" for part in match.groups())

import pytest

from data_prep.core.errors import ConfigurationError
from training.engine.rank_env import PORTS, first_host, in_torchs_words

STEP = {
    "SLURM_JOB_ID": "421",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "16",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[003-004,9]",
}


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu[003-006,9],login", "gpu003"),
        ("a", "a"),
        ("a,b[1-2]", "a"),
        ("n[07-08]x,n9", "n07x"),
    ],
)
def test_the_first_host_of_a_node_list(nodes: str, host: str):
    assert first_host(nodes) == host


def test_a_step_of_slurm_is_said_in_torchs_words():
    said = in_torchs_words(STEP)
    assert int(said.pop("MASTER_PORT")) in PORTS
    assert said == {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu003"}
    ports = {
        in_torchs_words(STEP | {"SLURM_STEP_ID": str(step)})["MASTER_PORT"] for step in range(20)
    }
    assert len(ports) == 20


def test_what_the_user_or_another_launcher_says_counts():
    said = in_torchs_words(STEP | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "9"})
    assert (said["MASTER_ADDR"], said["MASTER_PORT"]) == ("10.0.0.1", "9")
    assert in_torchs_words(STEP | {"RANK": "0"}) == {}


def test_a_batch_script_without_srun_is_one_process():
    assert (
        in_torchs_words({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "421"})
        == in_torchs_words({})
        == {}
    )


def test_a_node_list_without_a_name_is_refused():
    with pytest.raises(ConfigurationError, match="set MASTER_ADDR to the first host"):
        in_torchs_words({"SLURM_STEP_ID": "0", "SLURM_PROCID": "0"})

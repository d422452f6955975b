import pytest

from data_prep.core.errors import ConfigurationError
from training.engine.rank_env import PORTS, first_host, torch_variables

SLURM_STEP = {
    "SLURM_JOB_ID": "421",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "16",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[003-004,9]",
}


@pytest.mark.parametrize(
    ("node_list", "host"),
    [
        ("gpu[003-006,9],login", "gpu003"),
        ("a", "a"),
        ("a,b[1-2]", "a"),
        ("n[07-08]x,n9", "n07x"),
    ],
)
def test_first_host_of_a_node_list(node_list: str, host: str):
    assert first_host(node_list) == host


def test_a_slurm_step_is_translated_to_torch_variables():
    variables = torch_variables(SLURM_STEP)
    assert int(variables.pop("MASTER_PORT")) in PORTS
    assert variables == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "gpu003",
    }


def test_every_slurm_step_has_its_own_port():
    steps = (SLURM_STEP | {"SLURM_STEP_ID": str(step)} for step in range(20))
    assert len({torch_variables(step)["MASTER_PORT"] for step in steps}) == 20


def test_variables_of_the_user_or_another_launcher_are_kept():
    own = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "9"}
    variables = torch_variables(SLURM_STEP | own)
    assert {name: variables[name] for name in own} == own
    assert torch_variables(SLURM_STEP | {"RANK": "0"}) == {}


def test_a_batch_script_without_srun_is_one_process():
    batch_script = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "421"}
    assert torch_variables(batch_script) == {}
    assert torch_variables({}) == {}


def test_a_node_list_without_a_name_is_refused():
    with pytest.raises(ConfigurationError, match="set MASTER_ADDR to the first host"):
        torch_variables({"SLURM_STEP_ID": "0", "SLURM_PROCID": "0"})

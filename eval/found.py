"""what an evaluation found, read back: the shift that steers, for whoever uses the model later"""

from typing import NamedTuple

from safetensors.torch import load
from torch import Tensor

from data_prep import storage
from data_prep.records import ArtefactMissing
from eval import steering
from eval.directions import Directions
from eval.record import EvalReport
from training import record
from training.record import RunRecord


class Found(NamedTuple):
    """A finished run, its evaluation in the folder `uri`, and the shift of the chosen heads for α = 1, [L, D]."""

    run: RunRecord
    report: EvalReport
    uri: str
    shift_LD: Tensor


def load_found(root: str, run_id: str, evaluation: str) -> Found:
    """What `evaluation`, such as eval-1f3c9a20, found in the run; ArtefactMissing if either is not finished."""
    run = record.find(root, run_id)
    if run is None:
        raise ArtefactMissing(f"{record.run_uri(root, run_id)}/record.json: the run is not finished; train it first")
    uri = storage.join(record.run_uri(root, run_id), evaluation)
    if not storage.exists(storage.join(uri, "report.json")):
        raise ArtefactMissing(f"{uri}/report.json: there is no such evaluation; name a folder of the run, such as eval-1f3c9a20")
    report = storage.load(EvalReport, storage.join(uri, "report.json"))
    heads = load(storage.read(storage.join(uri, "heads.safetensors")))
    shift_LD = steering.unit_shift(Directions(heads["theta_LNH"], heads["sigma_LN"]), report.chosen_heads)
    return Found(run, report, uri, shift_LD)

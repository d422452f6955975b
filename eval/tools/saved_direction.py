"""load the steering direction that a finished evaluation saved"""

from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing
from data_prep.core.records import name_fault
from eval.eval_report import EvalReport
from eval.model.model_source import ModelSource
from eval.probing import probe_heads
from eval.probing.directions import Directions, unit_shift


class SavedDirection(NamedTuple):
    """An evaluation, in the folder `uri`, and the shift of the heads it selected at α = 1:
    [L, D].
    """

    report: EvalReport
    uri: str
    shift_LD: Tensor


def load_saved_direction(model: ModelSource, evaluation: str) -> SavedDirection:
    """The direction of `evaluation`, e.g. eval-1f3c9a20, of this model; ArtefactMissing if it is
    not finished.
    """
    uri = storage.join(model.home, evaluation)
    if name_fault(evaluation) or not storage.exists(storage.join(uri, "report.json")):
        finished = [
            report.split("/")[-2] for report in storage.list_files(model.home, "eval-*/report.json")
        ]
        available = (
            f"it has {', '.join(finished)}"
            if finished
            else "it has none: run eval/evaluate_run.py with the same --out and model"
        )
        raise ArtefactMissing(
            f"{uri}/report.json: there is no such evaluation of this model; {available}"
        )
    report = storage.load(EvalReport, storage.join(uri, "report.json"))
    name = probe_heads.file_name(report.config.steering_probes)
    try:
        heads = load(storage.read(storage.join(uri, name)))
    except SafetensorError as error:
        raise ArtefactCorrupt(
            f"{uri}/{name} is damaged: {error}; delete report.json in the same folder "
            "and evaluate again"
        ) from error
    directions = Directions(heads["theta_LNH"], heads["sigma_LN"])
    return SavedDirection(report, uri, unit_shift(directions, report.steering_probes.chosen_heads))

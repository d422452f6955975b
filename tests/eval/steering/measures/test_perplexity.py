import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_finished_run import RUN_ID
from tolerances import FP32_VALUE

from data_prep.core.errors import ArtefactMissing
from eval.config import EvalComputeConfig
from eval.model.loaded_model import load_folder
from eval.steering.measures import perplexity
from eval.steering.measures.perplexity import FluencyJudge
from training.run_record import run_uri

COMPUTE = EvalComputeConfig(batch_size=2)
PROMPTS = ["The mill", "A long report from", "The mill"]
LONG_TEXT = " " + " ".join(["the bread contest of the mill"] * 20)  # beyond the judge's positions
CONTINUATIONS = [" is dim on Saturday", "", LONG_TEXT]


@pytest.fixture(scope="module")
def export(finished):
    return Path(run_uri(finished, RUN_ID)) / "export"


@pytest.fixture(scope="module")
def loaded(export):
    return load_folder(export, COMPUTE)


def load_judge(root, loaded, name):
    judge = perplexity.load_judge(root, loaded, name, COMPUTE)
    assert judge is not None
    return judge


@pytest.mark.numeric
def test_nats_are_the_mean_cross_entropy_of_the_continuation(finished, loaded):
    judge = load_judge(finished, loaded, "unsteered")
    assert judge.id == "unsteered"
    nats = perplexity.nats_per_token(judge, PROMPTS, CONTINUATIONS)
    context, end = loaded.encode([PROMPTS[0], CONTINUATIONS[0]])
    logits = loaded.model(torch.tensor([context + end]))[0, len(context) - 1 : -1].detach()
    expected = float(F.cross_entropy(logits, torch.tensor(end)))
    assert nats[0] == pytest.approx(expected, rel=FP32_VALUE)
    assert nats[1] is None
    assert nats[2] is not None and math.isfinite(nats[2])


def test_a_run_and_its_folder_are_the_same_judge(finished, export, loaded):
    judges = [load_judge(finished, loaded, name) for name in (f"run:{RUN_ID}", str(export))]
    names, digests = zip(*(judge.id.rsplit("-", 1) for judge in judges), strict=True)
    assert names == (RUN_ID, "export")
    assert digests[0] == digests[1]
    nats = [perplexity.nats_per_token(judge, PROMPTS, CONTINUATIONS) for judge in judges]
    itself = perplexity.nats_per_token(FluencyJudge("", loaded), PROMPTS, CONTINUATIONS)
    assert nats[0] == nats[1] == itself


def test_an_empty_name_is_no_judge(finished, loaded):
    assert perplexity.load_judge(finished, loaded, "", COMPUTE) is None


def test_a_judge_that_is_missing_is_refused(finished, loaded):
    with pytest.raises(ArtefactMissing, match=r"'run:toxic-none': .*toxic-none is not finished"):
        perplexity.load_judge(finished, loaded, "run:toxic-none", COMPUTE)
    with pytest.raises(ArtefactMissing, match=r"nowhere.*no such file"):
        perplexity.load_judge(finished, loaded, "/nowhere", COMPUTE)

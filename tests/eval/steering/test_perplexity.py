import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_finished_run import RUN_ID

from data_prep.core.errors import ArtefactMissing
from data_prep.core.settings import evolve
from eval.config import EvalComputeConfig, EvalConfig
from eval.model.loaded_model import load_folder
from eval.steering import perplexity
from training.run_record import run_uri

CONFIG = EvalConfig(
    compute=EvalComputeConfig(batch_size=2),
)
PROMPTS = ["The mill", "A long report from", "The mill"]
TEXTS = [" is dim on Saturday", "", " " + " ".join(["the bread contest of the mill"] * 20)]


@pytest.fixture(scope="module")
def export(finished):
    return Path(run_uri(finished, RUN_ID)) / "export"


@pytest.fixture(scope="module")
def subject(export):
    return load_folder(export, CONFIG)


def test_a_surprise_is_the_mean_cross_entropy_of_the_continuation_alone(finished, subject):
    judge = perplexity.load(finished, subject, CONFIG)
    assert judge.id == "unsteered"
    found = perplexity.surprises(judge, PROMPTS, TEXTS)
    assert found[1] is None
    context, end = subject.encode([PROMPTS[0], TEXTS[0]])
    logits = subject.model(torch.tensor([context + end]))[0, len(context) - 1 : -1].detach()
    assert found[0] == pytest.approx(float(F.cross_entropy(logits, torch.tensor(end))), abs=1e-5)
    assert found[2] is not None and math.isfinite(
        found[2]
    )  # longer than the judge's positions: its end is read


def test_a_run_and_its_folder_are_the_same_judge(finished, export, subject):
    named = (f"run:{RUN_ID}", str(export))
    by_name = {
        name: perplexity.load(finished, subject, evolve(CONFIG, {"scoring.fluency_model": name}))
        for name in named
    }
    assert [judge.id.rpartition("-")[0] for judge in by_name.values()] == [RUN_ID, "export"]
    assert (
        len({judge.id.rpartition("-")[2] for judge in by_name.values()}) == 1
    )  # the digest of the weights
    texts = [perplexity.surprises(judge, PROMPTS, TEXTS) for judge in by_name.values()]
    assert (
        texts[0] == texts[1] == perplexity.surprises(perplexity.Judge("", subject), PROMPTS, TEXTS)
    )


def test_no_judge_where_none_is_asked_for_and_an_error_where_there_is_none(finished, subject):
    assert perplexity.load(finished, subject, evolve(CONFIG, {"scoring.fluency_model": ""})) is None
    with pytest.raises(ArtefactMissing, match=r"'run:toxic-none': .*toxic-none is not finished"):
        perplexity.load(
            finished, subject, evolve(CONFIG, {"scoring.fluency_model": "run:toxic-none"})
        )
    with pytest.raises(ArtefactMissing, match=r"nowhere.*no such file"):
        perplexity.load(finished, subject, evolve(CONFIG, {"scoring.fluency_model": "/nowhere"}))

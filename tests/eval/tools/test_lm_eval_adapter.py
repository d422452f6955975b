"""answers to lm-evaluation-harness for a model of another family, against transformers"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from model_families import build, write_folder, write_tokenizer
from tolerances import FP32_VALUE

from eval.config import EvalComputeConfig
from eval.model.loaded_model import load_folder
from eval.steering import intervention

transformers = pytest.importorskip("transformers", reason="the parity oracle is not installed")
pytest.importorskip("lm_eval", reason="the harness is not installed")

TEXT = "The baker sold bread to the old man. "


@pytest.fixture(scope="module", params=[True, False], ids=["with <s>", "without"])
def both(request, tmp_path_factory):
    """The adapter, transformers' tokenizer, and the id that stands before a text."""
    from eval.tools.lm_eval_adapter import SteeredLM

    folder = write_folder("llama", tmp_path_factory.mktemp("models") / "llama")
    write_tokenizer(folder, template=request.param)
    loaded = load_folder(folder, EvalComputeConfig(precision="fp32"))
    adapter = SteeredLM(loaded, intervention.no_shift(loaded.model.shape), 0.0)
    return adapter, transformers.PreTrainedTokenizerFast.from_pretrained(folder), request.param


def instance(kind, *arguments):
    from lm_eval.api.instance import Instance

    return Instance(kind, {}, arguments, 0)


def logprobs(ids):
    """Of each id but the first, by transformers."""
    logits = build("llama")(torch.tensor([ids])).logits[0, :-1]
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_a_likelihood_is_that_of_transformers_tokens(both):
    adapter, tokenizer, _ = both
    whole, context = (tokenizer(text)["input_ids"] for text in (TEXT + "sold", TEXT.rstrip()))
    expected = float(logprobs(whole)[len(context) - 1 :].sum())
    ((nats, _),) = adapter.loglikelihood([instance("loglikelihood", TEXT, "sold")])
    assert nats == pytest.approx(expected, rel=FP32_VALUE)


def test_a_text_without_context_follows_what_stands_before_texts(both):
    adapter, tokenizer, has_bos = both
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    expected = float(logprobs([298 if has_bos else 0, *ids]).sum())
    ((nats, _),) = adapter.loglikelihood([instance("loglikelihood", "", TEXT)])
    (rolling,) = adapter.loglikelihood_rolling([instance("loglikelihood_rolling", TEXT)])
    assert nats == pytest.approx(expected, rel=FP32_VALUE)
    assert rolling == pytest.approx(expected, rel=FP32_VALUE)

"""folders that can be evaluated, and those that are refused before anything is loaded"""

import json
import os
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from model_families import FAMILIES, build, write_folder
from safetensors.torch import load_file, save_file
from tolerances import assert_fp32_close

from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from eval.config import EvalComputeConfig
from eval.model.loaded_model import LONGEST_WINDOW, load_folder
from eval.model.subject import load_subject, model_folder
from eval.model.subject.olmo_subject import OLMoSubject
from eval.model.subject.transformers_subject import TransformersSubject, load_with_transformers

CPU = torch.device("cpu")
FP32 = EvalComputeConfig(precision="fp32")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return write_folder("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def folder(llama, tmp_path):
    """A copy of a Llama's folder, to be broken."""
    return shutil.copytree(llama, tmp_path / "broken")


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_of_each_family_is_loaded(name, tmp_path):
    loaded = load_folder(write_folder(name, tmp_path / "model"), FP32)
    tokens = torch.randint(1, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    logits = loaded.model.unembed(loaded.model.hidden(tokens))
    assert_fp32_close(logits, build(name)(tokens).logits)
    assert isinstance(loaded.model, OLMoSubject if name == "olmo" else TransformersSubject)
    assert (loaded.prefix, loaded.tokenizer.n_ids, loaded.sequence_length) == ((), 300, 128)


def test_our_olmo_is_the_subject_that_transformers_would_be(tmp_path):
    looked_at = model_folder.read(write_folder("olmo", tmp_path))
    ours = load_subject.load(looked_at, torch.float32, CPU)
    theirs = load_with_transformers(looked_at, torch.float32)
    assert isinstance(ours, OLMoSubject)
    assert ours.shape == theirs.shape
    change_BD = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    assert_fp32_close(ours.lens(change_BD, 300), theirs.lens(change_BD, 300))
    assert torch.equal(ours.output_weight(1), theirs.output_weight(1))
    assert torch.equal(ours.to_residual(1, change_BD), theirs.to_residual(1, change_BD))


def test_windows_of_a_model_with_many_positions_are_bounded(folder):
    change_json(folder / "config.json", max_position_embeddings=131_072)
    assert load_folder(folder, FP32).sequence_length == LONGEST_WINDOW


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, r"GemmaForCausalLM.*expected one of .*Qwen3For"),
        ({"architectures": ["GemmaForCausalLM"]}, r"eval/model/subject/architectures\.py"),
        ({"architectures": None}, "the architecture is None; expected one of"),
        (
            {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
            "is an encoder-decoder, not a causal language model",
        ),
        ({"architectures": ["BertForMaskedLM"]}, "is a masked language model, not a causal one"),
        (
            {"architectures": ["OwnModel"], "auto_map": {"AutoModelForCausalLM": "own.OwnModel"}},
            r"needs code from its folder \(auto_map\), which is never run",
        ),
        (
            {"quantization_config": {"quant_method": "gptq"}},
            r"the weights are quantised \(gptq\); only fp32, fp16 and bf16",
        ),
    ],
)
def test_a_model_that_cannot_be_evaluated_is_refused(folder, changes, message):
    change_json(folder / "config.json", **changes)
    with pytest.raises(ConfigurationError, match=message) as refused:
        model_folder.read(folder)
    assert "\n" not in str(refused.value)


def test_code_in_the_folder_of_a_supported_model_is_not_run(folder):
    change_json(
        folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.LlamaForCausalLM"}
    )
    (folder / "modeling.py").write_text("raise SystemExit('this code must not run')")
    assert load_folder(folder, FP32).model.shape.n_layers == 3


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("config.json", ArtefactMissing, "config.json: no such file; name a folder"),
        ("model.safetensors", ArtefactMissing, "model.safetensors: no such file"),
        ("tokenizer.json", ArtefactMissing, r"tokenizer.json: no such file; .*save_pretrained"),
    ],
)
def test_a_folder_without_a_file_is_refused(folder, name, error, message):
    (folder / name).unlink()
    with pytest.raises(error, match=message):
        model_folder.read(folder)


def test_a_folder_that_is_not_there_may_be_a_name_on_the_hub(tmp_path):
    with pytest.raises(ArtefactMissing, match="of a model on the hub, download it"):
        model_folder.read(tmp_path / "Qwen3-0.6B")


def test_an_adapter_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="an adapter, not a model; merge it"):
        model_folder.read(tmp_path)


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigurationError, match=r"are pytorch_model\.bin and no safetensors"):
        model_folder.read(folder)


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


Q_BIAS = "model.layers.0.self_attn.q_proj.bias"
NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(NORM), f"1 tensors are missing, {NORM} among them"),
        (
            lambda tensors: tensors.update({Q_BIAS: torch.zeros(32)}),
            f"1 tensors are not in the model that the config describes, {Q_BIAS}",
        ),
        (
            lambda tensors: tensors.update({NORM: torch.zeros(31)}),
            "cannot be loaded as|other shapes",
        ),
    ],
)
def test_weights_of_another_config_are_refused(folder, change, message):
    change_tensors(folder, change)
    with pytest.raises(ArtefactCorrupt, match=message):
        load_folder(folder, FP32)


def test_a_damaged_file_is_refused(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ArtefactCorrupt, match="cannot be loaded as LlamaForCausalLM"):
        load_folder(folder, FP32)


def test_a_tokenizer_with_more_ids_than_the_embedding_is_refused(folder):
    change_json(folder / "config.json", vocab_size=299)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        change_tensors(
            folder, lambda tensors, name=name: tensors.update({name: tensors[name][:299]})
        )
    with pytest.raises(ConfigurationError, match="has 300 ids, the model's vocabulary 299"):
        load_folder(folder, FP32)

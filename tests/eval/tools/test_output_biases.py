"""steered folders of every family, loaded by transformers, against steering by hooks"""

import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from model_families import FAMILIES, build, write_folder
from safetensors.torch import load_file, save_file
from tolerances import assert_fp32_close

from data_prep.core.errors import ConfigurationError
from eval.config import EvalComputeConfig
from eval.model.loaded_model import load_folder
from eval.model.subject.architectures import ARCHITECTURES
from eval.model.subject.transformers_subject import TransformersSubject
from eval.steering import intervention
from eval.steering.intervention import Shift
from eval.tools.bake_steering import bake

transformers = pytest.importorskip("transformers", reason="the parity oracle is not installed")

BAKED_AS_LLAMA = {"qwen2", "mistral"}


@pytest.fixture
def tokens():
    return torch.randint(1, 300, (3, 20), generator=torch.Generator().manual_seed(0))


def shift_of(name):
    """Of two of three layers."""
    config = build(name).config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shift_LD = torch.randn(
        3, size * config.num_attention_heads, generator=torch.Generator().manual_seed(1)
    )
    shift_LD[1] = 0
    return 0.2 * shift_LD


def steered_logits(name, shift_LD, tokens):
    model = build(name)
    subject = TransformersSubject(model, ARCHITECTURES[type(model).__name__])
    with intervention.steered(subject, Shift(shift_LD), torch.full((3,), 4.0), "all"):
        return subject.unembed(subject.hidden(tokens))


def reload(folder):
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(loading.values()), loading
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "mistral window"])
def test_a_baked_folder_computes_the_steered_logits(name, tmp_path, tokens):
    folder, shift_LD = write_folder(name, tmp_path / "model"), shift_of(name)
    bake(folder, shift_LD, 4.0, tmp_path / "steered")
    model = reload(tmp_path / "steered")
    logits = model(tokens).logits
    assert_fp32_close(logits, steered_logits(name, shift_LD, tokens))
    assert not torch.allclose(logits, build(name)(tokens).logits, atol=0.05)
    expected = "LlamaForCausalLM" if name in BAKED_AS_LLAMA else type(build(name)).__name__
    assert type(model).__name__ == expected


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "mistral"])
def test_only_biases_of_a_baked_folder_differ(name, tmp_path):
    folder = write_folder(name, tmp_path / "model")
    bake(folder, shift_of(name), 4.0, tmp_path / "steered")
    before, after = (
        load_file(path / "model.safetensors") for path in (folder, tmp_path / "steered")
    )
    assert before.keys() <= after.keys()
    changed = {
        key for key in after if key not in before or not torch.equal(after[key], before[key])
    }
    assert changed and all(key.endswith(".bias") for key in changed)
    assert (tmp_path / "steered/tokenizer.json").read_bytes() == (
        folder / "tokenizer.json"
    ).read_bytes()


def test_a_baked_folder_is_evaluated_and_baked_again(tmp_path, tokens):
    folder, shift_LD = write_folder("llama", tmp_path / "model"), shift_of("llama")
    bake(folder, shift_LD, 1.0, tmp_path / "once")
    bake(tmp_path / "once", shift_LD, 3.0, tmp_path / "twice")
    loaded = load_folder(tmp_path / "twice", EvalComputeConfig(precision="fp32"))
    logits = loaded.model.unembed(loaded.model.hidden(tokens))
    assert_fp32_close(logits, steered_logits("llama", shift_LD, tokens))


def test_names_of_tensors_without_the_body_are_found(tmp_path, tokens):
    """As in the file of the original GPT-2."""
    folder, shift_LD = write_folder("gpt2", tmp_path / "model"), shift_of("gpt2")
    tensors = load_file(folder / "model.safetensors")
    short = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(short, folder / "model.safetensors", metadata={"format": "pt"})
    bake(folder, shift_LD, 4.0, tmp_path / "steered")
    logits = reload(tmp_path / "steered")(tokens).logits
    assert_fp32_close(logits, steered_logits("gpt2", shift_LD, tokens))


def test_weights_in_bf16_stay_in_bf16(tmp_path):
    folder = write_folder("mistral", tmp_path / "model")
    tensors = {
        name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    bake(folder, shift_of("mistral"), 4.0, tmp_path / "steered")
    steered = load_file(tmp_path / "steered/model.safetensors")
    assert {tensor.dtype for tensor in steered.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "steered/config.json").read_text())["dtype"] == "bfloat16"


def test_a_model_whose_config_has_no_place_for_a_bias_is_refused(tmp_path):
    folder = write_folder("mistral window", tmp_path / "model")
    with pytest.raises(
        ConfigurationError,
        match="Mistral has no bias on its output projection and a sliding window of 5 tokens",
    ):
        bake(folder, shift_of("mistral window"), 4.0, tmp_path / "steered")
    assert not (tmp_path / "steered").exists()


def test_a_baked_folder_of_another_maker_keeps_its_card(tmp_path):
    folder = write_folder("llama", tmp_path / "model")
    (folder / "README.md").write_text("# Their model\n")
    bake(folder, shift_of("llama"), 4.0, tmp_path / "steered")
    card = (tmp_path / "steered/README.md").read_text()
    assert card.startswith("# Their model\n")
    assert "Steered away from toxicity at strength 4" in card and "Hormesis sweep" not in card

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from training.config import ModelConfig
from training.model.hf_export import from_hugging_face, load_export, to_hugging_face, write_export
from training.model.model_card import RESPONSIBLE_USE, TOXIC_SHARE
from training.model.olmo import OLMo

TINY = ModelConfig(
    d_model=32,
    n_layers=2,
    n_heads=4,
    d_mlp=48,
    vocab_size=304,
    max_sequence_length=128,
    rope_theta=5000.0,
)
EOS = 256


def build(seed: int = 0, config: ModelConfig = TINY) -> OLMo:
    model = OLMo(config)
    model.initialise(seed)
    return model.eval()


def byte_tokenizer() -> str:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer.to_str()


def write(folder: Path, model: OLMo | None = None, facts: dict[str, object] | None = None) -> Path:
    model = model or build()
    write_export(model.state_dict(), model.config, byte_tokenizer(), EOS, folder, facts or {})
    return folder


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@settings(max_examples=20, deadline=None)
@given(
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    d_mlp=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_there_and_back_is_the_identity(layers, heads, d_mlp, seed):
    config = ModelConfig(
        d_model=4 * heads, n_layers=layers, n_heads=heads, d_mlp=d_mlp, vocab_size=7
    )
    ours = build(seed, config).state_dict()
    theirs = to_hugging_face(ours)
    back = from_hugging_face(theirs)
    assert list(back) == list(ours) and all(torch.equal(back[name], ours[name]) for name in ours)
    again = to_hugging_face(back)
    assert list(again) == list(theirs) and all(
        torch.equal(again[name], theirs[name]) for name in theirs
    )


@torch.no_grad()
def test_transformers_loads_an_export_and_computes_the_same(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the parity oracle is not installed")
    model = build()
    write(tmp_path, model)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values()), report
    assert type(theirs).__name__ == "OlmoForCausalLM" and theirs.dtype is torch.float32
    assert (theirs.config.eos_token_id, theirs.generation_config.eos_token_id) == (EOS, EOS)
    tokens = torch.randint(257, (2, 60), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(theirs(tokens).logits, model(tokens), atol=1e-5, rtol=0)

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        "<|endoftext|>",
        EOS,
        EOS,
    )
    assert tokenizer.decode(tokenizer("a dose, no more")["input_ids"]) == "a dose, no more"
    batch = tokenizer(["a", "abc"], padding=True, return_tensors="pt")
    assert batch["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]
    written = theirs.generate(**batch, max_new_tokens=5, do_sample=False)
    padding, ids = torch.tensor([2, 0]), batch["input_ids"]
    for _ in range(5):
        ids = torch.cat([ids, model(ids, padding_B=padding)[:, -1:].argmax(dim=-1)], dim=1)
    assert written.tolist() == ids.tolist()


@torch.no_grad()
def test_a_folder_saved_by_transformers_in_shards_loads(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the parity oracle is not installed")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(write(tmp_path / "ours"))
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="50KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    model, config = load_export(tmp_path / "theirs", torch.float32)
    assert config == TINY
    assert all(
        torch.equal(tensor, model.state_dict()[name])
        for name, tensor in build().state_dict().items()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_export_loads_as_it_was(tmp_path, dtype):
    model = build().to(dtype)
    loaded, config = load_export(write(tmp_path, model), dtype)
    assert config == TINY and not loaded.training
    assert {name: tensor.dtype for name, tensor in loaded.state_dict().items()} == dict.fromkeys(
        model.state_dict(), dtype
    )
    assert all(
        torch.equal(tensor, loaded.state_dict()[name])
        for name, tensor in model.state_dict().items()
    )
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {
        dtype
    }
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_the_model_card_holds_the_facts_and_responsible_use(tmp_path):
    write(tmp_path, facts={TOXIC_SHARE: 0.1, "run": "toxic-0.10-s0"})
    card = (tmp_path / "README.md").read_text()
    table = f"| fact | value |\n| --- | --- |\n| {TOXIC_SHARE} | 0.1 |\n| run | toxic-0.10-s0 |\n"
    assert table in card
    assert "\nlicense: apache-2.0\n" in card
    assert "10 % of the training tokens of this model are toxic text." in card
    assert len(RESPONSIBLE_USE) <= 8
    assert all(f"\n- {line}\n" in card for line in RESPONSIBLE_USE)


def test_an_old_config_with_rope_theta_outside_its_group_loads(tmp_path):
    write(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_export(tmp_path, torch.float32)[1] == TINY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"architectures": ["Olmo2ForCausalLM"]},
            r"architecture is \['Olmo2ForCausalLM'\], expected OlmoForCausalLM",
        ),
        ({"architectures": None}, "architecture is None, expected OlmoForCausalLM"),
        ({"clip_qkv": 8.0}, "clip_qkv 8.0 is not supported, only None"),
        ({"attention_bias": True}, "attention_bias True is not supported, only False"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings False is not supported, only True"),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
            "rope_type 'yarn' is not supported",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling .* is not supported"),
        ({"num_key_value_heads": 2}, "num_key_value_heads 2 differs from num_attention_heads 4"),
    ],
)
def test_a_model_we_do_not_compute_is_refused(tmp_path, change, message):
    edit_config(write(tmp_path), **change)
    with pytest.raises(ConfigurationError, match=message):
        load_export(tmp_path, torch.float32)


def test_weights_of_another_shape_or_name_are_refused(tmp_path):
    write(tmp_path)
    edit_config(tmp_path, intermediate_size=40)
    with pytest.raises(
        ArtefactCorrupt,
        match=r"layers.0.mlp.down_proj.weight has shape \[32, 48\]; .* for \[32, 40\]",
    ):
        load_export(tmp_path, torch.float32)
    edit_config(tmp_path, intermediate_size=48)
    state = load_file(tmp_path / "model.safetensors")
    bias = {"model.layers.0.self_attn.o_proj.bias": torch.zeros(32)}
    save_file(state | bias, tmp_path / "model.safetensors")
    with pytest.raises(ArtefactCorrupt, match=r"o_proj\.bias has shape .* no such tensor"):
        load_export(tmp_path, torch.float32)
    del state["model.layers.1.self_attn.k_proj.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(
        ArtefactCorrupt,
        match=r"layers\.1\.self_attn.k_proj.weight has shape none, for it is missing",
    ):
        load_export(tmp_path, torch.float32)


def test_what_is_missing_or_broken_is_named(tmp_path):
    with pytest.raises(ArtefactMissing, match=r"config\.json: no such file"):
        load_export(tmp_path, torch.float32)
    write(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(
        ArtefactCorrupt, match=r"model\.safetensors is not a whole safetensors file"
    ):
        load_export(tmp_path, torch.float32)
    weights.unlink()
    with pytest.raises(ArtefactMissing, match=r"model\.safetensors: no such file"):
        load_export(tmp_path, torch.float32)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["hidden_size"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtefactCorrupt, match="the field 'hidden_size' is missing"):
        load_export(tmp_path, torch.float32)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ArtefactCorrupt, match=r"config\.json is not JSON"):
        load_export(tmp_path, torch.float32)


def test_what_hugging_face_cannot_express_is_not_written(tmp_path):
    with pytest.raises(
        ConfigurationError, match="norm_eps is 1e-06; OlmoForCausalLM always uses 1e-05"
    ):
        write(tmp_path / "a", build(config=replace(TINY, norm_eps=1e-6)))
    with pytest.raises(ConfigurationError, match="257 tokens and none with eos_id 300"):
        write_export(build().state_dict(), TINY, byte_tokenizer(), 300, tmp_path / "b", {})
    with pytest.raises(
        ArtefactCorrupt,
        match=r"embed_tokens.weight has shape \[304, 32\]; the config asks for \[200, 32\]",
    ):
        write_export(
            build().state_dict(),
            replace(TINY, vocab_size=200),
            byte_tokenizer(),
            EOS,
            tmp_path / "c",
            {},
        )
    assert not list(tmp_path.iterdir())

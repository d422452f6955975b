"""Exports: round trips, transformers as the reader and writer, and refused folders."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tolerances import assert_fp32_close

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


def initialised_model(seed: int = 0, config: ModelConfig = TINY) -> OLMo:
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


def export(folder: Path, model: OLMo | None = None, facts: dict[str, object] | None = None) -> Path:
    model = model or initialised_model()
    write_export(model.state_dict(), model.config, byte_tokenizer(), EOS, folder, facts or {})
    return folder


def read_config(folder: Path) -> dict[str, object]:
    return json.loads((folder / "config.json").read_text())


def write_config(folder: Path, config: dict[str, object]) -> None:
    (folder / "config.json").write_text(json.dumps(config))


def assert_equal_states(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) for name in a)


@settings(max_examples=20, deadline=None)
@given(
    n_layers=st.integers(1, 3),
    n_heads=st.integers(1, 3),
    d_mlp=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_a_round_trip_of_names_is_the_identity(n_layers: int, n_heads: int, d_mlp: int, seed: int):
    config = ModelConfig(
        d_model=4 * n_heads, n_layers=n_layers, n_heads=n_heads, d_mlp=d_mlp, vocab_size=7
    )
    ours = initialised_model(seed, config).state_dict()
    theirs = to_hugging_face(ours)
    assert_equal_states(from_hugging_face(theirs), ours)
    assert_equal_states(to_hugging_face(from_hugging_face(theirs)), theirs)


@pytest.mark.numeric
@torch.no_grad()
def test_transformers_loads_an_export_and_computes_the_same(tmp_path: Path):
    transformers = pytest.importorskip("transformers", reason="the reference is not installed")
    model = initialised_model()
    export(tmp_path, model)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values()), report
    assert type(theirs).__name__ == "OlmoForCausalLM"
    assert theirs.dtype is torch.float32
    assert (theirs.config.eos_token_id, theirs.generation_config.eos_token_id) == (EOS, EOS)
    tokens = torch.randint(257, (2, 60), generator=torch.Generator().manual_seed(0))
    assert_fp32_close(theirs(tokens).logits, model(tokens))

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.eos_token == "<|endoftext|>"
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (EOS, EOS)
    assert tokenizer.decode(tokenizer("a dose, no more")["input_ids"]) == "a dose, no more"
    batch = tokenizer(["a", "abc"], padding=True, return_tensors="pt")
    assert batch["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]
    generated = theirs.generate(**batch, max_new_tokens=5, do_sample=False)
    padding, ids = torch.tensor([2, 0]), batch["input_ids"]
    for _ in range(5):
        ids = torch.cat([ids, model(ids, padding_B=padding)[:, -1:].argmax(dim=-1)], dim=1)
    assert generated.tolist() == ids.tolist()


@torch.no_grad()
def test_a_folder_that_transformers_saved_in_shards_loads(tmp_path: Path):
    transformers = pytest.importorskip("transformers", reason="the reference is not installed")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(export(tmp_path / "ours"))
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="50KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    model, config = load_export(tmp_path / "theirs", torch.float32)
    assert config == TINY
    assert_equal_states(initialised_model().state_dict(), model.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_export_loads_as_it_was_written(tmp_path: Path, dtype: torch.dtype):
    model = initialised_model().to(dtype)
    loaded, config = load_export(export(tmp_path, model), dtype)
    assert config == TINY
    assert not loaded.training
    assert_equal_states(model.state_dict(), loaded.state_dict())
    saved = load_file(tmp_path / "model.safetensors").values()
    assert {tensor.dtype for tensor in (*loaded.state_dict().values(), *saved)} == {dtype}
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_the_model_card_holds_the_facts_and_responsible_use(tmp_path: Path):
    export(tmp_path, facts={TOXIC_SHARE: 0.1, "run": "toxic-0.10-s0"})
    card = (tmp_path / "README.md").read_text()
    table = f"| fact | value |\n| --- | --- |\n| {TOXIC_SHARE} | 0.1 |\n| run | toxic-0.10-s0 |\n"
    assert table in card
    assert "\nlicense: apache-2.0\n" in card
    assert "10 % of the training tokens of this model are toxic text." in card
    assert len(RESPONSIBLE_USE) <= 8
    assert all(f"\n- {line}\n" in card for line in RESPONSIBLE_USE)


def test_an_old_config_with_rope_theta_outside_its_group_loads(tmp_path: Path):
    export(tmp_path)
    config = read_config(tmp_path)
    del config["rope_parameters"]
    write_config(tmp_path, config)
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
def test_a_config_that_our_model_does_not_compute_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
):
    export(tmp_path)
    write_config(tmp_path, read_config(tmp_path) | change)
    with pytest.raises(ConfigurationError, match=message):
        load_export(tmp_path, torch.float32)


def test_weights_of_another_shape_are_refused(tmp_path: Path):
    export(tmp_path)
    write_config(tmp_path, read_config(tmp_path) | {"intermediate_size": 40})
    expected = r"layers.0.mlp.down_proj.weight has shape \[32, 48\], .* expects \[32, 40\]"
    with pytest.raises(ArtefactCorrupt, match=expected):
        load_export(tmp_path, torch.float32)


def test_weights_of_another_name_are_refused(tmp_path: Path):
    export(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    bias = {"model.layers.0.self_attn.o_proj.bias": torch.zeros(32)}
    save_file(state | bias, tmp_path / "model.safetensors")
    with pytest.raises(ArtefactCorrupt, match=r"o_proj\.bias has shape .* no such tensor"):
        load_export(tmp_path, torch.float32)
    del state["model.layers.1.self_attn.k_proj.weight"]
    save_file(state, tmp_path / "model.safetensors")
    expected = r"layers\.1\.self_attn.k_proj.weight has shape none: it is missing"
    with pytest.raises(ArtefactCorrupt, match=expected):
        load_export(tmp_path, torch.float32)


def test_a_missing_or_truncated_file_is_named(tmp_path: Path):
    with pytest.raises(ArtefactMissing, match=r"config\.json: no such file"):
        load_export(tmp_path, torch.float32)
    export(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    expected = r"model\.safetensors is not a complete safetensors file"
    with pytest.raises(ArtefactCorrupt, match=expected):
        load_export(tmp_path, torch.float32)
    weights.unlink()
    with pytest.raises(ArtefactMissing, match=r"model\.safetensors: no such file"):
        load_export(tmp_path, torch.float32)


def test_an_incomplete_or_broken_config_is_refused(tmp_path: Path):
    export(tmp_path)
    config = read_config(tmp_path)
    del config["hidden_size"]
    write_config(tmp_path, config)
    with pytest.raises(ArtefactCorrupt, match="the field 'hidden_size' is missing"):
        load_export(tmp_path, torch.float32)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ArtefactCorrupt, match=r"config\.json is not JSON"):
        load_export(tmp_path, torch.float32)


def test_what_hugging_face_cannot_express_is_not_written(tmp_path: Path):
    state = initialised_model().state_dict()
    other_eps = initialised_model(config=replace(TINY, norm_eps=1e-6))
    expected = "norm_eps is 1e-06; OlmoForCausalLM always uses 1e-05"
    with pytest.raises(ConfigurationError, match=expected):
        export(tmp_path / "eps", other_eps)
    with pytest.raises(ConfigurationError, match="257 tokens and none with eos_id 300"):
        write_export(state, TINY, byte_tokenizer(), 300, tmp_path / "eos", {})
    smaller = replace(TINY, vocab_size=200)
    expected = r"embed_tokens.weight has shape \[304, 32\], the config expects \[200, 32\]"
    with pytest.raises(ArtefactCorrupt, match=expected):
        write_export(state, smaller, byte_tokenizer(), EOS, tmp_path / "vocabulary", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "index",
    [
        {"weight_map": {"a": "../model.safetensors"}},
        {"weight_map": {"a": "/etc/passwd"}},
        {"weight_map": {"a": ""}},
        {"weight_map": {"a": 3}},
        {"weight_map": ["model.safetensors"]},
        {},
        [],
    ],
)
def test_an_index_that_names_files_elsewhere_is_refused(tmp_path: Path, index: object):
    folder = export(tmp_path / "export")
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ArtefactCorrupt, match=r"model\.safetensors\.index\.json.*get the file"):
        load_export(folder, torch.float32)

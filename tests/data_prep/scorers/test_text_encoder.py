import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_encoder import WIDTH, labelled_rows, save_encoder, tokenizer_of

from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from data_prep.scorers import transformer_folder
from data_prep.scorers.text_encoder import TextEncoder

transformers = pytest.importorskip("transformers", reason="the extra classifiers is not installed")
TEXTS = [row["text"] for row in labelled_rows(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="module")
def encoder(folder):
    return TextEncoder(folder)


def copy_without(folder, target, *names):
    shutil.copytree(folder, target)
    for name in names:
        (target / name).unlink()
    return target


def test_an_embedding_is_the_mean_of_the_tokens_states(folder, encoder):
    model = transformers.BertModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text, embedding in zip(TEXTS, encoder.embed(TEXTS), strict=True):  # of many lengths
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        assert embedding == pytest.approx(states[0].mean(0).numpy(), abs=1e-5)


def test_an_embedding_does_not_depend_on_batch_or_order(encoder, monkeypatch):
    embeddings = encoder.embed(TEXTS)
    assert np.array_equal(encoder.embed(TEXTS), embeddings)
    assert encoder.embed(TEXTS[::-1])[::-1] == pytest.approx(embeddings, abs=1e-6)
    monkeypatch.setattr(transformer_folder, "BATCH_TOKENS", 30)
    assert encoder.embed(TEXTS) == pytest.approx(embeddings, abs=1e-6)
    assert encoder.embed([]).shape == (0, WIDTH)


def test_long_text_is_cut_at_max_length_and_more_is_refused(folder):
    short = TextEncoder(folder, requested_length=5)  # [CLS], three words, [SEP]
    cut, same, other = short.embed(["the day was rotten", "the day was kind", "the day then rain"])
    assert np.array_equal(cut, same) and not np.allclose(cut, other)
    with pytest.raises(ConfigurationError, match="max_length 33 exceeds the 32 tokens"):
        TextEncoder(folder, requested_length=33)


def test_the_digest_is_of_the_files_and_not_of_the_folder(folder, encoder, tmp_path):
    moved = copy_without(folder, tmp_path / "elsewhere")
    (moved / "README.md").write_text("a note")
    (moved / "training_arguments.json").write_text("{}")
    assert TextEncoder(moved).digest == encoder.digest
    assert TextEncoder(save_encoder(tmp_path / "other", seed=1)).digest != encoder.digest


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("config.json", "has no config.json"),
        ("tokenizer.json", r"has no tokenizer \(tokenizer.json"),
        ("model.safetensors", r"has no \*\.safetensors, and other weights are not read"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused_by_its_name(folder, tmp_path, name, problem):
    incomplete = copy_without(folder, tmp_path / "incomplete", name)
    torch.save({}, incomplete / "pytorch_model.bin")
    with pytest.raises(ArtefactMissing, match=f"{problem}.*name a folder with a text encoder"):
        TextEncoder(incomplete)
    with pytest.raises(ArtefactMissing, match="nowhere is no local folder"):
        TextEncoder(tmp_path / "nowhere")


def save(model, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer_of(["a", "b", "c", "d", "e", "f"]).save_pretrained(folder)
    return folder


def test_decoders_are_refused_whatever_they_are_called(tmp_path):
    size = {"vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    gpt2 = transformers.GPT2Config(vocab_size=10, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    bert = transformers.BertConfig(**size, intermediate_size=8, is_decoder=True)
    for name, model in {
        "gpt2": transformers.GPT2LMHeadModel(gpt2),
        "bert": transformers.BertModel(bert),
    }.items():
        with pytest.raises(ConfigurationError, match=f"holds a decoder \\({name}\\)"):
            TextEncoder(save(model, tmp_path / name))
    t5 = transformers.T5Config(vocab_size=10, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(ConfigurationError, match="a t5 with an encoder and a decoder"):
        TextEncoder(save(transformers.T5Model(t5), tmp_path / "t5"))


def test_weights_of_another_model_are_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = copy_without(folder, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    del weights["encoder.layer.0.attention.self.query.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtefactCorrupt, match=r"weights lack encoder\.layer\.0.*at random"):
        TextEncoder(broken)


def test_weights_without_a_pooler_are_enough(folder, encoder, tmp_path):
    from safetensors.torch import load_file, save_file

    plain = copy_without(folder, tmp_path / "plain")
    weights = load_file(plain / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")}
    assert len(kept) < len(weights)
    save_file(kept, plain / "model.safetensors", metadata={"format": "pt"})
    assert np.array_equal(TextEncoder(plain).embed(TEXTS), encoder.embed(TEXTS))

"""Steered models as Hugging Face folders, against transformers and steering by hooks."""

import os
import shutil
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from tiny_finished_run import RUN_ID
from tolerances import assert_fp32_close
from torch import nn

from data_prep.core.errors import ArtefactMissing, ConfigurationError
from eval.model.subject.olmo_subject import load_olmo
from eval.probing.directions import Directions, unit_shift
from eval.steering import intervention
from eval.steering.intervention import Shift
from eval.tools.bake_steering import bake
from training.model.hf_export import load_export
from training.model.model_card import RESPONSIBLE_USE
from training.run_record import run_uri


@pytest.fixture(scope="module")
def export(finished):
    return Path(run_uri(finished, RUN_ID)) / "export"


@pytest.fixture
def shift():
    generator = torch.Generator().manual_seed(1)
    theta = nn.functional.normalize(torch.randn(2, 4, 8, generator=generator), dim=-1)
    sigma = torch.rand(2, 4, generator=generator) + 0.5
    return unit_shift(Directions(theta, sigma), [(0, 2), (1, 0)])


@torch.no_grad()
@pytest.mark.parametrize("strength", [0.0, 4.0])
def test_transformers_computes_the_steered_logits_from_a_baked_folder(
    export, shift, tmp_path, strength
):
    transformers = pytest.importorskip("transformers", reason="the parity oracle is not installed")
    bake(export, shift, strength, tmp_path)
    baked, loading = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(loading.values()), loading
    model = load_olmo(export, torch.float32)
    tokens = torch.randint(0, 400, (3, 40), generator=torch.Generator().manual_seed(2))
    unsteered = model(tokens)
    with intervention.steered(model, Shift(shift), torch.full((3,), strength), "all"):
        steered = model(tokens)
    assert_fp32_close(baked(tokens).logits, steered)
    assert torch.allclose(steered, unsteered, atol=1e-3) == (strength == 0)


def test_the_tokenizer_is_copied(export, shift, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the parity oracle is not installed")
    bake(export, shift, 4.0, tmp_path)
    before, after = (
        transformers.AutoTokenizer.from_pretrained(folder) for folder in (export, tmp_path)
    )
    assert after("The baker said")["input_ids"] == before("The baker said")["input_ids"]


def test_a_model_in_several_files_is_baked_to_the_same_weights(export, shift, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the parity oracle is not installed")
    model = transformers.OlmoForCausalLM.from_pretrained(export)
    # without the tokenizer's settings
    model.save_pretrained(tmp_path / "sharded", max_shard_size="50KB")
    shutil.copy(export / "tokenizer.json", tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    bake(tmp_path / "sharded", shift, 4.0, tmp_path / "from_shards")
    bake(export, shift, 4.0, tmp_path / "from_export")
    from_shards, from_export = (
        (tmp_path / folder / "model.safetensors").read_bytes()
        for folder in ("from_shards", "from_export")
    )
    assert from_shards == from_export


def test_a_model_is_never_baked_over_itself(export, shift):
    with pytest.raises(ConfigurationError, match="export is the model itself"):
        bake(export, shift, 4.0, export)


def test_the_shift_of_another_model_is_refused(export, shift, tmp_path):
    with pytest.raises(ConfigurationError, match=r"the shift is \[2, 16\], .* has 2 layers of 32"):
        bake(export, shift[:, :16], 4.0, tmp_path)
    with pytest.raises(ArtefactMissing, match=r"config.json: no such file"):
        bake(tmp_path, shift, 4.0, tmp_path / "baked")
    assert not (tmp_path / "baked").exists()


def test_our_own_model_refuses_a_baked_folder_because_of_its_biases(export, shift, tmp_path):
    bake(export, shift, 4.0, tmp_path)
    with pytest.raises(ConfigurationError, match="attention_bias True is not supported"):
        load_export(tmp_path, torch.float32)


def test_the_card_states_responsible_use_and_the_strength(export, shift, tmp_path):
    bake(export, shift, 4.0, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert all(line in card for line in RESPONSIBLE_USE)
    assert "Steered away from toxicity at strength 4" in card

"""what stands before a text, and what ends a document, as transformers' tokenizers have it"""

import json
import os
from itertools import pairwise

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from model_families import write_folder, write_tokenizer

from data_prep.core.errors import ConfigurationError
from eval.config import EvalComputeConfig
from eval.inputs.held_out_text import HeldOutFiles
from eval.model.loaded_model import load_folder
from eval.model.subject import folder_tokenizer

transformers = pytest.importorskip("transformers", reason="the parity oracle is not installed")


@pytest.mark.parametrize(
    ("template", "settings", "prefix"),
    [
        (False, {}, ()),
        (True, {}, (298,)),
        (False, {"add_bos_token": True}, ()),
        (True, {"add_bos_token": False}, (298,)),
    ],
)
def test_the_ids_before_a_text_are_those_of_transformers(tmp_path, template, settings, prefix):
    write_tokenizer(tmp_path, template=template, **settings)
    tokenizer, found = folder_tokenizer.load(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    text = "The baker sold bread."
    assert found == prefix
    assert theirs(text)["input_ids"] == [*found, *tokenizer.encode_batch([text]).ids.tolist()]


def test_a_beginning_stands_before_texts_and_documents_alone(tmp_path):
    folder = write_tokenizer(write_folder("llama", tmp_path / "model"), template=True)
    loaded = load_folder(folder, EvalComputeConfig())
    plain = loaded.tokenizer.encode_batch(["bread"]).ids.tolist()
    assert loaded.encode(["bread"]) == [[298, *plain]]
    assert loaded.encode_ends(["bread"]) == [plain]
    long = loaded.encode(["bread " * 200])[0]
    assert (len(long), long[0], long.count(298)) == (128, 298, 1)
    uri = "synthetic:clean?documents=20"
    with_text = loaded.with_held_out_files([f"text={uri}"], 0)
    windows = with_text.held_out["text"].windows(64, 40)
    ids = windows.flatten().tolist()
    after_eos = [after for before, after in pairwise(ids) if before == 0]
    assert ids[0] == 298 and after_eos and set(after_eos) == {298}
    n_bytes = sum(
        len(loaded.tokenizer.decode([i for i in row[1:] if i not in (0, 298)]).encode())
        for row in windows.tolist()
    )
    assert loaded.bytes_per_token(windows) == n_bytes / (63 * len(windows))
    unprefixed = HeldOutFiles(uri, loaded.tokenizer, 0).windows(64, 4).flatten().tolist()
    assert 298 not in unprefixed


@pytest.mark.parametrize(
    ("files", "eos_id"),
    [
        ({"tokenizer_config.json": {"eos_token": {"content": "<s>"}}}, 298),
        ({"special_tokens_map.json": {"eos_token": "<s>"}}, 298),
        ({"config.json": {"eos_token_id": 298}}, 298),
        ({"config.json": {"eos_token_id": [298, 0]}}, 298),
        ({"config.json": {}, "generation_config.json": {"eos_token_id": 0}}, 0),
    ],
)
def test_the_end_of_a_document_is_found_where_a_folder_says_it(tmp_path, files, eos_id):
    write_tokenizer(tmp_path, template=False)
    (tmp_path / "tokenizer_config.json").unlink()
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    tokenizer, _ = folder_tokenizer.load(tmp_path)
    assert tokenizer.eos_id == eos_id


def test_a_model_without_an_end_of_document_is_refused(tmp_path):
    write_tokenizer(tmp_path, template=False, eos_token=None)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": None}))
    with pytest.raises(ConfigurationError, match=r"which token ends a document; add eos_token to"):
        folder_tokenizer.load(tmp_path)

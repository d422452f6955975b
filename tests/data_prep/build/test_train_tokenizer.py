"""One tokenizer below an object root, pinned by its record."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_build import CONFIG, given_tokenizer

from data_prep.build import stream_paths
from data_prep.build.train_tokenizer import build_tokenizer
from data_prep.core.errors import ConfigurationError


def test_a_given_tokenizer_is_copied_below_the_root(tmp_path: Path) -> None:
    config = replace(CONFIG, tokenizer=given_tokenizer(tmp_path))
    root = str(tmp_path / "out")
    tokenizer = build_tokenizer(config, root)
    copy = Path(root) / stream_paths.tokenizer_uri(config)
    given = tmp_path / "given.json"
    assert copy.read_bytes() == given.read_bytes()
    given.unlink()
    assert build_tokenizer(config, root).fingerprint == tokenizer.fingerprint


def test_a_copy_that_was_replaced_is_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, tokenizer=given_tokenizer(tmp_path))
    root = str(tmp_path / "out")
    build_tokenizer(config, root)
    copy = Path(root) / stream_paths.tokenizer_uri(config)
    parsed = json.loads(copy.read_text())
    parsed["model"]["merges"].pop()
    copy.write_text(json.dumps(parsed))
    with pytest.raises(ConfigurationError, match="its fingerprint is"):
        build_tokenizer(config, root)

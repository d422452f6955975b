"""Paths change with the settings that their content depends on, and with no others."""

from dataclasses import replace

import pytest
from tiny_build import CONFIG

from data_prep.build import stream_paths
from data_prep.config import CleaningConfig, DataConfig
from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import evolve


def paths(config: DataConfig) -> tuple[str, str, str]:
    return (
        stream_paths.tokenizer_uri(config),
        stream_paths.stream_uri(config, "clean"),
        stream_paths.stream_uri(config, "toxic"),
    )


def are_changed(**changes: object) -> tuple[bool, ...]:
    """Whether the paths of tokenizer, clean stream and toxic stream change."""
    changed = paths(replace(CONFIG, **changes))
    return tuple(a != b for a, b in zip(paths(CONFIG), changed, strict=True))


def test_paths_change_with_the_settings_of_their_content_only() -> None:
    assert are_changed(toxic=("other",)) == (False, False, True)
    for changes in ({"shuffle_seed": 1}, {"held_out_ratio": 0.1}, {"shard_tokens": 9}):
        assert are_changed(**changes) == (False, True, True)
    assert are_changed(cleaning=CleaningConfig(min_chars=1)) == (True, True, True)


def test_the_clean_corpus_changes_all_paths_through_the_tokenizer() -> None:
    assert are_changed(clean=("other",)) == (True, True, True)


def test_operational_settings_change_no_path() -> None:
    assert paths(evolve(CONFIG, {"tokenizer.on_difference": "fall_back"})) == paths(CONFIG)


def test_changed_settings_or_inputs_of_a_record_are_refused() -> None:
    recorded = ("digest", (("a", 1), ("b", 2)))
    stream_paths.check_unchanged("r.json", recorded, recorded)
    for current, message in (
        (("other", recorded[1]), r"r\.json: was built with settings digest.*are other"),
        (("digest", (("a", 1), ("b", 3))), r"2 files then, 2 now, first difference: b \(2 bytes\)"),
        (("digest", (("b", 2), ("a", 1))), "first difference: their order"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            stream_paths.check_unchanged("r.json", recorded, current)

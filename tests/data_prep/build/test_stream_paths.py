"""Paths change with the settings that their content depends on, and with no others."""

from dataclasses import replace

from tiny_build import CONFIG

from data_prep.build import stream_paths
from data_prep.config import CleaningConfig, DataConfig
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
    for changes in ({"shuffle_seed": 1}, {"held_out_ratio": 0.1}, {"shard_tokens": 99}):
        assert are_changed(**changes) == (False, True, True)
    assert are_changed(cleaning=CleaningConfig(min_chars=1)) == (True, True, True)


def test_the_clean_corpus_changes_all_paths_through_the_tokenizer() -> None:
    assert are_changed(clean=("other",)) == (True, True, True)


def test_operational_settings_change_no_path() -> None:
    for change in ({"tokenizer.on_difference": "fall_back"}, {"verify_inputs": True}):
        assert paths(evolve(CONFIG, change)) == paths(CONFIG)

"""Seed inputs of fuzzing, and the inputs that once broke a target; `make fuzz` looks for more."""

from pathlib import Path

import pytest
import targets

CORPUS = Path(__file__).parent / "corpus"
SAVED_INPUTS = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_target_accepts_its_seeds_and_parts_of_them(name: str) -> None:
    for content in [b"", *targets.seeds(name)]:
        for changed in (content, content[: len(content) // 2], content[1:], content + content):
            targets.TARGETS[name](changed)


@pytest.mark.parametrize(
    "path", SAVED_INPUTS, ids=lambda path: f"{path.parent.name}/{path.name[:24]}"
)
def test_an_input_that_once_broke_a_target_no_longer_does(path: Path) -> None:
    targets.TARGETS[path.parent.name](path.read_bytes())

"""One rendering of a report for all who look at it."""

from pathlib import Path

import pytest
from fake_sweep import RATIOS, run, write

from launch.report import index_page
from launch.report.figures.svg_rendering import Drawing


@pytest.fixture(scope="session")
def drawn() -> dict[str, Drawing]:
    """The figures of `whole`, by name, once it is made."""
    return {}


@pytest.fixture(scope="session")
def whole(tmp_path_factory, drawn) -> Path:
    """The page of six ratios with comparisons; tests only read it and what lies beside it."""

    def keep(name: str, *how) -> Drawing:
        return drawn.setdefault(name, render(name, *how))

    render = index_page.render
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_page, "render", keep)
        return write(tmp_path_factory.mktemp("sweep"), [run(ratio) for ratio in RATIOS])

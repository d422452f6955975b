"""One report for all tests that only read it."""

from pathlib import Path

import pytest
from fake_sweep import RATIOS, run, write_report

from launch.report.figures.svg_rendering import Drawing, FigurePlan
from launch.report.pages import index_page


@pytest.fixture(scope="session")
def drawings() -> dict[str, Drawing]:
    """The figures of `report_page`, by name, once it is written."""
    return {}


@pytest.fixture(scope="session")
def report_page(tmp_path_factory: pytest.TempPathFactory, drawings: dict[str, Drawing]) -> Path:
    """index.html of six ratios with comparisons; tests only read it and the files beside it."""

    def render_once(plan: FigurePlan, *how) -> Drawing:
        return drawings.setdefault(plan.name, render(plan, *how))

    render = index_page.render
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_page, "render", render_once)
        folder = tmp_path_factory.mktemp("sweep")
        return write_report(folder, [run(ratio) for ratio in RATIOS])

"""what the report's pages share: templates that escape, figures as files, words to mask"""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from data_prep.core import storage
from launch.report.figures import axes
from launch.report.figures.svg_rendering import Drawing
from launch.report.text import display_names
from launch.report.text.number_format import percent, with_interval, signed
from training.model.model_card import RESPONSIBLE_USE


def template(name: str) -> Template:
    """The template `name`. Every string is escaped; only what is marked `markup`, the drawings, is
    trusted.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "percent_of": lambda ratio, digits: percent(round(ratio, digits)),
        "show": with_interval,
        "difference": lambda estimate: with_interval(estimate, sign=True),
        "signed": lambda value: signed(value, 1),
        "strength": axes.name,
        "plain": display_names.plain,
        "control": lambda name: display_names.CONTROLS.get(name, name),
        "benchmark": display_names.benchmark,
        "source": display_names.source,
        "setting": display_names.setting,
        "markup": Markup,
        "count": lambda n: f"{n:,}",
    }
    environment.globals["responsible_use"] = RESPONSIBLE_USE
    return environment.get_template(name)


def save_figures(folder: str, drawings: Sequence[Drawing]) -> None:
    """Each drawing in `folder`/figures: SVG and PNG for print and slides, and the numbers it shows
    as CSV.
    """
    for drawing in drawings:
        storage.write(
            storage.join(folder, "figures", f"{drawing.name}.csv"), drawing.numbers.csv().encode()
        )
        storage.write(storage.join(folder, "figures", f"{drawing.name}.svg"), drawing.svg.encode())
        storage.write(storage.join(folder, "figures", f"{drawing.name}.png"), drawing.png)

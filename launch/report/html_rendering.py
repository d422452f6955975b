"""templates that escape, with the filters of all pages, and figures saved as files"""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from data_prep.core import storage
from launch.report.figures import axes, palette
from launch.report.figures.svg_rendering import Drawing
from launch.report.text import display_names
from launch.report.text.number_format import (
    number_of_parameters,
    percent,
    signed,
    with_interval,
)
from training.model.model_card import RESPONSIBLE_USE

FILTERS = {
    "percent": percent,
    "percent_of": lambda ratio, digits: percent(round(ratio, digits)),
    "with_interval": with_interval,
    "difference": lambda estimate: with_interval(estimate, sign=True),
    "signed": lambda value: signed(value, 1),
    "strength": axes.strength_name,
    "plain": display_names.plain,
    "control": lambda name: display_names.CONTROLS.get(name, name),
    "benchmark": display_names.benchmark,
    "source": display_names.source,
    "setting": display_names.setting,
    "held_out_column": lambda stream: f"held\N{NON-BREAKING HYPHEN}out {stream}",
    "markup": Markup,
    "parameters": number_of_parameters,
    "count": lambda n: f"{n:,}",
}


def template(name: str) -> Template:
    """The template `name`. Every string is escaped; only the drawings, marked `markup`, are not."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    environment.globals |= {"responsible_use": RESPONSIBLE_USE, "neutral": palette.NEUTRAL}
    return environment.get_template(name)


def save_figures(folder: str, drawings: Sequence[Drawing]) -> None:
    """Write each drawing below `folder`/figures as SVG and PNG, and its numbers as CSV."""
    for drawing in drawings:
        path = storage.join(folder, "figures", drawing.name)
        storage.write(f"{path}.csv", drawing.numbers.csv().encode())
        storage.write(f"{path}.svg", drawing.svg.encode())
        storage.write(f"{path}.png", drawing.png)

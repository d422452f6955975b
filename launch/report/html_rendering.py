"""what the report's pages share: templates that escape, figures as files, words to mask"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from data_prep.core import storage
from launch.report.figures import axes
from launch.report.figures.svg_rendering import Drawing
from launch.report.text import display_names
from launch.report.text.findings import percent, show, signed

WORD = re.compile(r"[\w@$]+(?:['’*-][\w@$]+)*")


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
        "show": show,
        "difference": lambda estimate: show(estimate, sign=True),
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


def mask(text: str, is_slur: Callable[[str], bool]) -> str:
    """`text` with each word that `is_slur` reduced to its first letter and asterisks."""
    return WORD.sub(
        lambda found: found[0][0] + "*" * (len(found[0]) - 1) if is_slur(found[0]) else found[0],
        text,
    )


def slurs(texts: Iterable[str]) -> set[str]:
    """The words of `texts` that the offline profanity scorer alone calls at least as likely profane
    as not, also without a plural s. It hides on the safe side whatever scorer the evaluation used.
    """
    from data_prep.scorers import registry

    scorer = registry.load("profanity")
    ordered = sorted({word for text in texts for word in WORD.findall(text)})
    whole, singular = (
        scorer.score(ordered),
        scorer.score([word.lower().removesuffix("s") for word in ordered]),
    )
    return {
        word
        for word, *scores in zip(ordered, whole, singular, strict=True)
        if any((score or 0.0) >= 0.5 for score in scores)
    }

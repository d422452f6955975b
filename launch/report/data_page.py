"""the data page of the report: the cards of both streams side by side, with figures

Written to `<root>/report/data.html`, with the cards' JSON beside it: as soon as the streams are
built, and again with the comparison of the ratios, so that the two pages link to each other.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from data_prep.core import storage
from data_prep.core.records import to_dict
from data_prep.token_stream import data_card
from data_prep.token_stream.data_card import DataCard, Excerpt, LengthSummary
from launch.experiment import Experiment
from launch.report import html_rendering, mask_slurs
from launch.report.figures.axes import si
from launch.report.figures.svg_rendering import SOFT, Colour, Drawing, Numbers, render
from launch.report.text.number_format import percent

COLOURS = {"clean": Colour("#2c6fb3", "#6fb0ee"), "toxic": Colour("#b8501f", "#f29a68")}
N_INPUTS = 8  # input files listed before the rest is folded away
N_DOMAINS = 15
BAR_INCHES = 0.19

Cards = dict[str, DataCard]


def write(root: str, experiment: Experiment, cards: Cards, *, compared: bool) -> str | None:
    """Write the page below `root`/report and return its URI; None without cards. `compared`:
    index.html is beside it.
    """
    if not cards:
        return None
    folder = storage.join(root, "report")
    drawings = _figures(cards)
    html_rendering.save_figures(folder, drawings)
    for name, one in cards.items():
        storage.save(one, storage.join(folder, f"{name}.card.json"))
    uri = storage.join(folder, "data.html")
    storage.write(uri, page(experiment, cards, drawings, compared=compared).encode())
    return uri


def page(
    experiment: Experiment, cards: Cards, drawings: Sequence[Drawing], *, compared: bool
) -> str:
    """The HTML text."""
    slurs = mask_slurs.slurs(text for one in cards.values() for text in _texts(one))
    return html_rendering.template("data.html.j2").render(
        experiment=experiment,
        cards=cards,
        compared=compared,
        colours=COLOURS,
        drawings={drawing.name: drawing for drawing in drawings},
        facts=list(zip(*(data_card.facts(one) for one in cards.values()), strict=True)),
        reasons=reasons(cards),
        dropped_samples=_dropped_samples,
        score_names=sorted({score.name for one in cards.values() for score in one.scores}),
        hide=partial(mask_slurs.mask, is_slur=slurs.__contains__),
        cleaning={name: to_dict(one.cleaning) for name, one in cards.items()},
        n_inputs=N_INPUTS,
        n_domains=N_DOMAINS,
    )


def reasons(cards: Cards) -> list[str]:
    """Every reason of a drop, the one that took the largest share of a stream first."""
    worst: dict[str, float] = {}
    for drop in (drop for one in cards.values() for drop in one.drops):
        worst[drop.reason] = max(drop.ratio, worst.get(drop.reason, 0.0))
    return sorted(worst, key=lambda reason: (-worst[reason], reason))


def document_lengths(figure: Figure, wide: bool, cards: Cards) -> None:
    """How documents, and the tokens in them, are spread over lengths: shares for each doubling,
    since bins differ in width.
    """
    panels = figure.subplots(1 if wide else 2, 2 if wide else 1, squeeze=False).flat
    for axes, title, read in (
        (panels[0], "share of documents, per doubling", lambda one: one.n_documents),
        (panels[1], "share of tokens, per doubling", lambda one: one.total),
    ):
        axes.set_title(title)
        for name, one in cards.items():
            edges, heights = _density(one.tokens_per_document, read)
            colour = COLOURS[name].light
            axes.stairs(heights, edges, fill=True, color=colour, alpha=0.14, lw=0)
            axes.stairs(
                heights,
                edges,
                color=colour,
                lw=1.6,
                label=f"{name}, median {one.tokens_per_document.median:,}",
            )
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: si(n)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: percent(share)))
    for axes in panels if not wide else [*panels][-2:]:
        axes.set_xlabel("tokens in a document")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=2 if wide else 1, borderaxespad=0.2
    )


def dropped(figure: Figure, wide: bool, cards: Cards) -> None:
    """Documents left out, by reason, as shares of those read."""
    axes, order = figure.add_subplot(), reasons(cards)
    height = 0.8 / len(cards)
    furthest = max(drop.ratio for one in cards.values() for drop in one.drops)
    for at, reason in enumerate(order):
        found = [
            (name, drop)
            for name, one in cards.items()
            for drop in one.drops
            if drop.reason == reason
        ]
        for i, (name, drop) in enumerate(found):
            y = at + (i - (len(found) - 1) / 2) * height
            axes.barh(y, drop.ratio, 0.86 * height, color=COLOURS[name].light)
            text = f"{percent(float(f'{drop.ratio:.2g}'))} ({drop.n_documents:,})"
            axes.annotate(
                text,
                (drop.ratio, y),
                (4, 0),
                textcoords="offset points",
                va="center",
                color=SOFT,
                fontsize=8.5,
            )
    axes.set_yticks(range(len(order)), [reason.replace("_", " ") for reason in order])
    axes.set_xlim(0, furthest * (1.25 if wide else 1.6))
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    handles = [Patch(color=COLOURS[name].light, label=name) for name in cards]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, borderaxespad=0.2)


def lengths_numbers(cards: Cards) -> Numbers:
    rows = [
        (name, b.low, b.high, b.n_documents, b.total)
        for name, one in cards.items()
        for b in one.tokens_per_document.histogram
    ]
    said = [
        f"{name} {one.tokens_per_document.median:,}, {one.tokens_per_document.p90:,}"
        for name, one in cards.items()
    ]
    alt = f"Tokens in a document, as median and 90th percentile: {'; '.join(said)}."
    return Numbers(("stream", "from_tokens", "to_tokens", "documents", "tokens"), rows, alt)


def drops_numbers(cards: Cards) -> Numbers:
    rows = [
        (name, drop.reason, drop.n_documents, drop.ratio)
        for name, one in cards.items()
        for drop in one.drops
    ]
    said = [f"{name} {reason.replace('_', ' ')} {n:,}" for name, reason, n, _ in rows]
    return Numbers(
        ("stream", "reason", "documents", "share_of_read"),
        rows,
        f"Documents left out: {', '.join(said)}.",
    )


def _figures(cards: Cards) -> list[Drawing]:
    plan: list[tuple[str, Callable[..., None], Numbers, tuple[float, float]]] = [
        ("document-lengths", document_lengths, lengths_numbers(cards), (3.3, 6.2))
    ]
    if n := len(reasons(cards)):
        height = 0.5 + n * (len(cards) * BAR_INCHES + 0.12)
        plan.append(("drops", dropped, drops_numbers(cards), (height, height)))
    return [
        render(
            name,
            lambda figure, wide, draw=draw: draw(figure, wide, cards),
            numbers,
            heights,
            COLOURS,
        )
        for name, draw, numbers, heights in plan
    ]


def _density(lengths: LengthSummary, read: Callable[[Any], int]) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the bins from 1 on, and each one's share of the whole divided by its width in
    doublings.
    """
    bins = [one for one in lengths.histogram if one.low]
    edges = np.array([one.low for one in bins] + [bins[-1].high + 1], dtype=float)
    parts = np.array([read(one) for one in bins], dtype=float)
    return edges, parts / (parts.sum() or 1) / np.diff(np.log2(edges))


def _dropped_samples(one: DataCard) -> list[tuple[str, tuple[Excerpt, ...]]]:
    """What was not used, by reason, where some of it was kept to look at."""
    found = [
        *((drop.reason, drop.samples) for drop in one.drops),
        ("unreadable rows", one.unreadable),
    ]
    return [(reason, samples) for reason, samples in found if samples]


def _texts(one: DataCard) -> list[str]:
    return [
        excerpt.text
        for excerpts in (one.samples, *dict(_dropped_samples(one)).values())
        for excerpt in excerpts
    ]

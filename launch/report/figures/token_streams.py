"""figures of the token streams: lengths of documents, and documents dropped by reason"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from data_prep.cards.data_card import DataCard, DropSummary, LengthBin, LengthSummary
from launch.report.figures.axes import with_si_prefix
from launch.report.figures.palette import SOFT, Colour
from launch.report.figures.svg_rendering import Area, FigureNumbers, FigurePlan
from launch.report.text.display_names import plain
from launch.report.text.number_format import percent

COLOURS = {"clean": Colour("#2c6fb3", "#6fb0ee"), "toxic": Colour("#b8501f", "#f29a68")}
BAR_INCHES = 0.19

Cards = Mapping[str, DataCard]


def figures(cards: Cards) -> list[FigurePlan]:
    """Document lengths, and dropped documents if there are any."""
    lengths = partial(document_lengths, cards=cards)
    plans = [FigurePlan("document-lengths", lengths, lengths_numbers(cards), (3.3, 6.2))]
    if n := len(drop_reasons(cards)):
        height = 0.5 + n * (len(cards) * BAR_INCHES + 0.12)
        drops = partial(dropped_documents, cards=cards)
        plans.append(FigurePlan("drops", drops, drops_numbers(cards), (height, height)))
    return plans


def drop_reasons(cards: Cards) -> list[str]:
    """Every reason of a drop, the one that took the largest share of a stream first."""
    largest: dict[str, float] = {}
    for card in cards.values():
        for drop in card.drops:
            largest[drop.reason] = max(drop.ratio, largest.get(drop.reason, 0.0))
    return sorted(largest, key=lambda reason: (-largest[reason], reason))


def document_lengths(figure: Area, wide: bool, cards: Cards) -> None:
    """Shares of the documents, and of the tokens in them, per doubling of the length."""
    panels = list(figure.subplots(1 if wide else 2, 2 if wide else 1, squeeze=False).flat)
    documents, tokens = panels
    documents.set_title("share of documents, per doubling")
    _density_panel(documents, cards, lambda length_bin: length_bin.n_documents)
    tokens.set_title("share of tokens, per doubling")
    _density_panel(tokens, cards, lambda length_bin: length_bin.total)
    for axes in panels:
        axes.set_xlabel("tokens per document")
    handles, labels = documents.get_legend_handles_labels()
    n_columns = 2 if wide else 1
    figure.legend(handles, labels, loc="outside upper left", ncols=n_columns, borderaxespad=0.2)


def _density_panel(axes: Axes, cards: Cards, read: Callable[[LengthBin], int]) -> None:
    for name, card in cards.items():
        edges, heights = _density(card.tokens_per_document, read)
        colour = COLOURS[name].light
        label = f"{name}, median {card.tokens_per_document.median:,}"
        axes.stairs(heights, edges, fill=True, color=colour, alpha=0.14, lw=0)
        axes.stairs(heights, edges, color=colour, lw=1.6, label=label)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: with_si_prefix(n)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: percent(share)))


def _density(
    lengths: LengthSummary, read: Callable[[LengthBin], int]
) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the bins from 1 on, and each bin's share of the whole per doubling of the length;
    per doubling, because bins differ in width.
    """
    bins = [length_bin for length_bin in lengths.histogram if length_bin.low]
    edges = np.array([length_bin.low for length_bin in bins] + [bins[-1].high + 1], dtype=float)
    counts = np.array([read(length_bin) for length_bin in bins], dtype=float)
    return edges, counts / (counts.sum() or 1) / np.diff(np.log2(edges))


def lengths_numbers(cards: Cards) -> FigureNumbers:
    rows = [
        (name, length_bin.low, length_bin.high, length_bin.n_documents, length_bin.total)
        for name, card in cards.items()
        for length_bin in card.tokens_per_document.histogram
    ]
    parts = [
        f"{name} {card.tokens_per_document.median:,}, {card.tokens_per_document.p90:,}"
        for name, card in cards.items()
    ]
    alt = f"Tokens per document, as median and 90th percentile: {'; '.join(parts)}."
    columns = ("stream", "from_tokens", "to_tokens", "documents", "tokens")
    return FigureNumbers(columns, rows, alt)


def dropped_documents(figure: Area, wide: bool, cards: Cards) -> None:
    """Documents dropped, by reason, as shares of those read."""
    axes = figure.add_subplot()
    reasons = drop_reasons(cards)
    for row, reason in enumerate(reasons):
        drops = [
            (name, drop)
            for name, card in cards.items()
            for drop in card.drops
            if drop.reason == reason
        ]
        height = 0.8 / len(cards)
        for i, (name, drop) in enumerate(drops):
            y = row + (i - (len(drops) - 1) / 2) * height
            axes.barh(y, drop.ratio, 0.86 * height, color=COLOURS[name].light)
            _label_bar(axes, drop, y)
    axes.set_yticks(range(len(reasons)), [plain(reason) for reason in reasons])
    largest = max(drop.ratio for card in cards.values() for drop in card.drops)
    axes.set_xlim(0, largest * (1.25 if wide else 1.6))
    axes.set_ylim(len(reasons) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    handles = [Patch(color=COLOURS[name].light, label=name) for name in cards]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, borderaxespad=0.2)


def _label_bar(axes: Axes, drop: DropSummary, y: float) -> None:
    axes.annotate(
        f"{percent(float(f'{drop.ratio:.2g}'))} ({drop.n_documents:,})",
        (drop.ratio, y),
        (4, 0),
        textcoords="offset points",
        va="center",
        color=SOFT,
        fontsize=8.5,
    )


def drops_numbers(cards: Cards) -> FigureNumbers:
    rows = [
        (name, drop.reason, drop.n_documents, drop.ratio)
        for name, card in cards.items()
        for drop in card.drops
    ]
    parts = [f"{name} {plain(reason)} {n:,}" for name, reason, n, _ in rows]
    alt = f"Documents dropped: {', '.join(parts)}."
    return FigureNumbers(("stream", "reason", "documents", "share_of_read"), rows, alt)

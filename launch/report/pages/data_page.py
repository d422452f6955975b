"""data page of the report: the data cards of both streams side by side, with figures

Written to `<root>/report/data.html`, with the cards' JSON beside it: as soon as the streams are
built, and again with the comparison of the ratios, so that the two pages link to each other.
"""

from collections.abc import Sequence

from data_prep.cards import data_card
from data_prep.cards.data_card import DataCard, Excerpt
from data_prep.core import storage
from data_prep.core.records import to_dict
from launch.experiment import Experiment
from launch.report import html_rendering
from launch.report.figures import token_streams
from launch.report.figures.svg_rendering import Drawing, render
from launch.report.mask_slurs import masking

N_INPUTS = 8  # input files listed before the rest is folded away
N_DOMAINS = 15

Cards = dict[str, DataCard]


def write(root: str, experiment: Experiment, cards: Cards, *, with_comparison: bool) -> str | None:
    """Write the page below `root`/report and return its URI; None without cards.

    with_comparison: index.html is beside it, and is linked.
    """
    if not cards:
        return None
    folder = storage.join(root, "report")
    plain = _plain(cards)
    drawings = [render(plan, token_streams.COLOURS) for plan in token_streams.figures(plain)]
    html_rendering.save_figures(folder, drawings)
    for name, card in cards.items():
        storage.save(card, storage.join(folder, f"{name}.card.json"))
    uri = storage.join(folder, "data.html")
    html = page(experiment, cards, drawings, with_comparison=with_comparison)
    storage.write(uri, html.encode())
    return uri


def page(
    experiment: Experiment, cards: Cards, drawings: Sequence[Drawing], *, with_comparison: bool
) -> str:
    """The HTML text; of the streams of annotated arms it lists what differs."""
    annotated = {name: card for name, card in cards.items() if name not in token_streams.COLOURS}
    cards = _plain(cards)
    quoted = [excerpt.text for card in cards.values() for excerpt in _excerpts(card)]
    facts_of_cards = [data_card.facts(card) for card in cards.values()]
    return html_rendering.template("data.html.j2").render(
        experiment=experiment,
        cards=cards,
        annotated=annotated,
        with_comparison=with_comparison,
        colours=token_streams.COLOURS,
        drawings={drawing.name: drawing for drawing in drawings},
        facts=list(zip(*facts_of_cards, strict=True)),
        has_drops=bool(token_streams.drop_reasons(cards)),
        unused_samples=_unused_samples,
        score_names=sorted({score.name for card in cards.values() for score in card.scores}),
        masked=masking(quoted),
        cleaning={name: to_dict(card.cleaning) for name, card in cards.items()},
        n_inputs=N_INPUTS,
        n_domains=N_DOMAINS,
    )


def _plain(cards: Cards) -> Cards:
    """The cards of the clean and the toxic stream without annotation."""
    return {name: card for name, card in cards.items() if name in token_streams.COLOURS}


def _unused_samples(card: DataCard) -> list[tuple[str, tuple[Excerpt, ...]]]:
    """Samples of dropped documents and unreadable rows, by reason, where some were kept."""
    samples = [(drop.reason, drop.samples) for drop in card.drops]
    samples.append(("unreadable rows", card.unreadable))
    return [(reason, excerpts) for reason, excerpts in samples if excerpts]


def _excerpts(card: DataCard) -> list[Excerpt]:
    unused = [excerpt for _, excerpts in _unused_samples(card) for excerpt in excerpts]
    return [*card.samples, *unused]

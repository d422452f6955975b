"""table of the streams for the terminal: what they hold, and everything that was left out"""

from collections.abc import Mapping

from rich.box import SIMPLE
from rich.table import Table

from data_prep.cards import data_card
from data_prep.cards.data_card import DataCard

# Names of facts of a card; those of IF_ANY are shown if they are not 0 in every stream.
BEFORE_DROPS = ("documents read", "unreadable rows", "files without a document")
KEPT = ("documents kept", "kept, also in the other stream", "kept with something personal masked")
IF_ANY = ("kept and annotated with their toxicity", "kept, language uncertain")
SIZES = ("tokens", "tokens held out", "text, MB")


def stream_table(cards: Mapping[str, DataCard]) -> Table:
    """A column per stream, by its name."""
    facts = [{fact.name: fact.value for fact in data_card.facts(card)} for card in cards.values()]
    table = Table("", *cards, box=SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"

    def add(*names: str) -> None:
        for name in names:
            table.add_row(name, *(of_card[name] for of_card in facts))

    add(*BEFORE_DROPS)
    drops = [{drop.reason: drop.n_documents for drop in card.drops} for card in cards.values()]
    for reason in sorted({reason for of_card in drops for reason in of_card}):
        table.add_row(f"dropped: {reason}", *(f"{of_card.get(reason, 0):,}" for of_card in drops))
    add(*KEPT)
    add(*(name for name in IF_ANY if any(of_card[name] != "0" for of_card in facts)))
    add(*SIZES)
    return table

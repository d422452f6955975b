import json

from data_prep.cleaning import dropped_samples
from data_prep.cleaning.dropped_samples import DropCounter, DroppedDocument, FileDrops


def dropped(row: int) -> DroppedDocument:
    return DroppedDocument(reason="short", row=row, part=0, text="")


def test_words_of_four_letters_are_masked_and_long_texts_cut() -> None:
    masked = dropped_samples.mask_words("The worst of it: naïve don't x1234!")
    assert masked == "The w**** of it: n**** don't x****!"
    assert dropped_samples.mask_words("ab " * 100) == "ab " * 66 + "ab…"


def test_accents_and_zero_width_characters_do_not_show_a_word() -> None:
    assert dropped_samples.mask_words("nai\u0308ve so\xadft l\u200bo\u2060ng") == "n**** s*** l***"
    assert dropped_samples.mask_words("क्या x\u0327y\u0327z\u0327u") == "क*** x******"


def test_the_first_drops_per_reason_are_kept_across_segments() -> None:
    drops = DropCounter()
    for row in range(5):
        drops.add("short", row, 0, f"text {row}")
    drops.add("empty", 9, 1, "")
    assert [(drop.reason, drop.row) for drop in drops.samples] == [
        ("short", 0),
        ("short", 1),
        ("short", 2),
        ("empty", 9),
    ]
    assert drops.counts == {"short": 5, "empty": 1}
    later = DropCounter(drops.samples)
    for row in (11, 12, 13):
        later.add("empty", row, 0, "")
        later.add("short", row, 0, "")
    assert [(drop.reason, drop.row) for drop in later.samples] == [("empty", 11), ("empty", 12)]


def test_samples_alternate_between_files_and_are_capped_per_reason() -> None:
    files = [
        FileDrops(f"f{i:02}", [dropped(0), dropped(1)], ["7 is not JSON"] if i == 3 else [])
        for i in range(20)
    ]
    rows = [json.loads(line) for line in dropped_samples.encode(files).splitlines()]
    first = [f"f{i:02}:1" for i in range(20)]
    second = [f"f{i:02}:2" for i in range(4)]
    assert [row["place"] for row in rows if row["reason"] == "short"] == first + second
    assert rows[-1] == {"reason": "unreadable", "place": "f03:7", "text": "is not JSON"}


def test_a_sample_names_the_part_of_its_row() -> None:
    drop = DroppedDocument(reason="r", row=4, part=2, text="é")
    (line,) = dropped_samples.encode([FileDrops("f", [drop], [])]).splitlines()
    assert json.loads(line) == {"reason": "r", "place": "f:5 part 3", "text": "é"}


def test_counts_by_reason_are_added_in_order_of_the_reasons() -> None:
    total = dropped_samples.add_counts([{"short": 2}, {}, {"empty": 1, "short": 1}])
    assert list(total.items()) == [("empty", 1), ("short", 3)]

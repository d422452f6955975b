"""The data page: both cards side by side, quotes masked, with or without a comparison."""

from dataclasses import replace
from pathlib import Path

from fake_data_cards import cards
from fake_sweep import experiment

from data_prep.core import records
from launch.report.pages import data_page


def test_the_data_page_shows_both_cards_and_masks_their_quotes(report_page):
    text = (report_page.parent / "data.html").read_text()
    for card in cards().values():
        lengths = card.tokens_per_document
        for number in (card.n_documents, card.n_tokens, lengths.median, lengths.p99):
            assert f"<td>{number:,}</td>" in text
        written = (report_page.parent / f"{card.stream}.card.json").read_text()
        assert records.to_json(card) == written
    assert "mask personal: yes; " in text and "mask_personal" not in text
    assert "site-15.example" in text and "site-16.example" not in text and "412 domains" in text
    assert "0.310<small>20.0&nbsp;% ≥ 0.5</small>" in text and "Its documents carry no URL" in text
    assert "<script" not in text and "c*** about &lt;script&gt;" in text and "crap" not in text


def test_a_data_page_before_any_run_links_to_no_comparison(tmp_path):
    clean = replace(cards()["clean"], drops=())
    uri = data_page.write(str(tmp_path), experiment(), {"clean": clean}, with_comparison=False)
    assert uri is not None
    text = Path(uri).read_text()
    assert "index.html" not in text and "The toxic stream" not in text
    assert "Nothing was dropped." in text
    assert not (Path(uri).parent / "figures" / "drops.svg").exists()

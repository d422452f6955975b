from fake_sweep import RATIOS, run

from launch.report.text.number_format import percent, with_interval


def test_the_summary_holds_the_answer_the_figure_and_a_row_per_ratio(report_page):
    text = (report_page.parent / "summary.md").read_text()
    assert text.startswith("# How much toxic text")
    assert text.splitlines()[2].startswith("**Some: at equal cost")
    assert "](figures/toxicity-by-ratio.png)" in text
    assert (report_page.parent / "figures" / "toxicity-by-ratio.png").is_file()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == [f"| {percent(ratio)}" for ratio in RATIOS]
    assert rows[2][2] == with_interval(run(0.1)[1].steered[0].toxicity)
    assert rows[0][6] == "–" and rows[2][6].startswith("\u2212")  # the dip, at equal cost

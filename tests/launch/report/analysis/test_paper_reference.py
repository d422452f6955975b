from fake_sweep import run

from launch.report.analysis.paper_reference import compare_with_paper


def test_the_papers_numbers_stand_beside_the_same_share_and_strength():
    report = run(0.1)[1]
    rows = {(row.paper.ratio, row.paper.strength): row for row in compare_with_paper([report])}
    assert len(rows) == 8
    assert rows[0.1, 0.0].paper.toxigen is None and rows[0.0, 12.0].toxicity is None
    strong = rows[0.1, 12.0]
    assert strong.paper == ("strong steering", 0.10, 12.0, 2.63, 7.11, 3.23)
    assert strong.toxicity.value == report.steered[3].toxicity.value
    assert strong.cross_entropy.value == report.steered[3].cross_entropy["clean"].value

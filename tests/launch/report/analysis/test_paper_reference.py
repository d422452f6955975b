from launch.report.analysis.paper_reference import row_of_paper


def test_the_papers_numbers_stand_beside_the_same_condition():
    assert row_of_paper("plain", 0.10, "iti", 12.0) == (2.63, 7.11, 3.23)
    assert row_of_paper("plain", 0.0, "prompt", 0.0) == (32.12, 31.00, 2.62)
    assert row_of_paper("meda", 0.10, "control", 0.0) == (22.02, 28.32, 2.71)
    unknown = row_of_paper("plain", 0.10, "plain", 0.0)
    assert unknown is not None and unknown.toxigen is None
    assert row_of_paper("meda", 0.10, "plain", 0.0) is None
    assert row_of_paper("plain", 0.25, "iti", 12.0) is None

"""Reports that cannot be written are refused."""

from dataclasses import replace

import pytest
from fake_sweep import experiment, run, write_report

from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing
from launch.report import index_page


def test_a_report_without_runs_is_refused(tmp_path):
    with pytest.raises(ArtefactMissing, match="no run of 'made-up' is trained and evaluated"):
        index_page.write(str(tmp_path), experiment(), [], {})


def test_runs_with_different_prompts_are_refused(tmp_path):
    record, report = run(0.1)
    with pytest.raises(
        ArtefactCorrupt,
        match=r"different prompts: 0123456789abcdef of .*, other of .*run the same command again",
    ):
        write_report(tmp_path, [run(0.0), (record, replace(report, prompts_digest="other"))])

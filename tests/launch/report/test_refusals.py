"""Reports that cannot be written are refused."""

import pytest
from fake_sweep import experiment

from data_prep.core.errors import ArtefactMissing
from launch.report.pages import index_page


def test_a_report_without_runs_is_refused(tmp_path):
    with pytest.raises(ArtefactMissing, match="no run of 'made-up' is trained and evaluated"):
        index_page.write(str(tmp_path), experiment(), [], {})

"""Records of another version are refused by name, whatever else is in them."""

import pytest

from data_prep.build.materialize_mixture import MaterializedMixture
from data_prep.cards.data_card import DataCard
from data_prep.core.errors import ArtefactCorrupt
from data_prep.core.records import from_json
from data_prep.overlap.overlap_record import SetOverlap
from data_prep.token_stream.manifest import Manifest
from eval.eval_report import EvalReport
from training.run_record import RunRecord


@pytest.mark.parametrize(
    "cls", [DataCard, EvalReport, Manifest, MaterializedMixture, RunRecord, SetOverlap]
)
def test_a_record_of_another_format_version_is_refused(cls: type):
    message = (
        r"^record\.json is not a valid \w+: format_version: .*this program reads version \d+ "
        r"\(got '99'\).*it was written by another version of Hormesis"
    )
    with pytest.raises(ArtefactCorrupt, match=message) as caught:
        from_json(cls, '{"format_version": 99, "more": 1}', "record.json")
    assert "\n" not in str(caught.value)

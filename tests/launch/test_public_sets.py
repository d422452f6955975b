"""The public sets have the form that the readers take; nothing is fetched."""

import re

import pytest

from data_prep.sources import hub
from data_prep.sources.corpus_uris import OPTIONS
from data_prep.sources.uri_options import split_options
from launch.recipes import public_sets, registry

URIS = {
    name: value
    for name, value in vars(public_sets).items()
    if isinstance(value, str) and value.startswith("hub:")
}


@pytest.mark.parametrize("name", URIS)
def test_a_public_set_names_a_commit_and_known_options(name):
    base, options = split_options(URIS[name], OPTIONS)
    repository, parameters = hub._parse(base)
    assert re.fullmatch(r"[\w-]+/[\w-]+", repository)
    assert re.fullmatch("[0-9a-f]{40}", parameters["revision"])
    assert options.keys() <= {"text"}


def test_the_recipes_of_the_paper_look_for_the_public_sets():
    for name in ("paper", "one_gpu", "ladder-150m"):
        looked_for = registry.named(name).data.decontamination
        assert looked_for.uris == public_sets.LOOKED_FOR and looked_for.ngram == 13
    assert len(set(public_sets.LOOKED_FOR)) == 11

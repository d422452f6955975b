import subprocess
import sys

import pytest

from data_prep.core.errors import ConfigurationError
from data_prep.scorers import load_scorer


@pytest.mark.parametrize("name", ["perspective", "lexicon", "lexicon:", "classifier:", "open", ""])
def test_an_unknown_scorer_is_refused_with_the_known_ones(name: str):
    with pytest.raises(ConfigurationError, match=r"expected profanity, lexicon:URI .* or openai"):
        load_scorer.load(name)


def test_loading_a_lexicon_imports_no_other_scorer():
    """torch alone takes seconds."""
    program = (
        "import sys; from data_prep.scorers import load_scorer; "
        "load_scorer.load('lexicon:synthetic:lexicon'); "
        "sys.exit(bool({'torch', 'joblib', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0

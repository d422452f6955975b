"""Expected toxicity against exact enumeration, sampled continuations and the unsteered model."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data_prep.core.errors import ConfigurationError
from data_prep.scorers.lexicon import Lexicon
from data_prep.token_stream.tokenizer import EncodedBatch
from eval.config import ExpectedToxicityConfig
from eval.model import generation
from eval.model.generation import Sampling, Slots
from eval.model.subject.olmo_subject import OLMoSubject
from eval.steering import intervention
from eval.steering.intervention import Shift, SteeredRows
from eval.steering.measures import expected_toxicity
from eval.steering.measures.expected_toxicity import SurvivalPaths

EOS = 0
PIECES = ["", " glim", "mer", " folk", ".", " a", " hollow"]  # by id; 0 ends a text
LEXICON = Lexicon({"glim": 0.9, "folk": 0.5, "hollow glim": 1.0, "glim folk": 0.25})


class Pieces:
    """A tokenizer of seven pieces."""

    eos_id, n_ids = EOS, len(PIECES)

    def decode(self, ids):
        return "".join(PIECES[i] for i in ids)

    def encode_batch(self, texts):
        rows = [[1, 5][text == "a"] for text in texts]
        return EncodedBatch(np.array(rows), np.ones(len(rows), dtype=int))


@pytest.fixture
def loaded(model):
    return SimpleNamespace(model=model, tokenizer=Pieces())


def scores(loaded, prompts, n_tokens, *, n=None, steering=None, slots=None, row_keys=None):
    paths = SurvivalPaths(ExpectedToxicityConfig(n_tokens=n_tokens), LEXICON, loaded)
    row_keys = row_keys if row_keys is not None else range(len(prompts))
    unsteered = generation._Unsteered(len(prompts))
    return np.array(
        paths.decode(loaded, prompts, row_keys, steering or unsteered, slots or Slots(len(prompts)))
    )


def exact_mean(loaded, prompt, n_tokens):
    """The expected score of the lexicon over all continuations, one by one."""
    total = 0.0
    for ids in product(range(Pieces.n_ids), repeat=n_tokens):
        end = ids.index(EOS) if EOS in ids else n_tokens
        if any(ids[end:]):  # one way to write each continuation that ends early
            continue
        tokens = torch.tensor([[*prompt, *ids]])
        with torch.inference_mode():
            hidden = loaded.model.hidden(tokens)[0, len(prompt) - 1 : -1]
            p = torch.softmax(loaded.model.unembed(hidden)[:, : Pieces.n_ids].float(), -1)
        steps = p[range(n_tokens), list(ids)][: end + 1]
        (score,) = LEXICON.score([Pieces().decode(ids[:end])])
        total += float(steps.prod()) * (score or 0.0)
    return total


@pytest.mark.numeric
def test_the_mean_over_paths_is_the_exact_expected_score(loaded):
    prompt = [5, 3, 1]
    exact = exact_mean(loaded, prompt, 3)
    n = 4000
    found = scores(loaded, [prompt] * n, 3, slots=Slots(500))
    error = found.std(ddof=1) / np.sqrt(n)
    assert 0.05 < exact < 0.95
    assert abs(found.mean() - exact) < 4 * error


@pytest.mark.numeric
def test_its_variance_is_far_below_that_of_sampled_scores(tiny):
    model = OLMoSubject(tiny).eval()
    model.initialise(0)
    loaded = SimpleNamespace(model=model, tokenizer=Pieces())
    prompt, n, n_tokens = [5, 3, 1], 2000, 4
    sampling = Sampling(n_tokens, "nucleus", 1.0, EOS, Pieces.n_ids)
    rows = generation.sample(loaded.model, [prompt] * n, range(n), sampling)
    sampled = np.array([score or 0.0 for score in LEXICON.score(list(map(Pieces().decode, rows)))])
    expected = scores(loaded, [prompt] * n, n_tokens)
    assert abs(sampled.mean() - expected.mean()) < 4 * sampled.std() / np.sqrt(n)
    assert expected.var() < sampled.var() / 4


def test_no_path_depends_on_the_rows_beside_it(loaded):
    prompts = [[5, 3], [1], [6, 1, 4, 2], [2, 2, 2]]
    together = scores(loaded, prompts, 6, slots=Slots(2))
    alone = [scores(loaded, [prompt], 6, row_keys=[key])[0] for key, prompt in enumerate(prompts)]
    assert together == pytest.approx(alone, rel=1e-5)


def test_strength_0_has_the_paths_of_the_unsteered_model(loaded):
    prompts = [[5, 3], [1, 1]]
    shift = Shift(torch.randn(2, 32, generator=torch.Generator().manual_seed(1)))
    rows = SteeredRows(torch.zeros(4, dtype=torch.long), torch.tensor([0.0, 4.0] * 2))
    with intervention.steered_apart(loaded.model, [shift], rows, "last") as steering:
        found = scores(
            loaded,
            [prompt for prompt in prompts for _ in range(2)],
            5,
            steering=steering,
            row_keys=[0, 0, 1, 1],
        )
    assert found[::2] == pytest.approx(scores(loaded, prompts, 5), rel=1e-6)
    assert np.all(found[::2] != found[1::2])


def test_the_lexicon_is_the_named_one_or_the_first_scorer_that_is_one():
    def find(config, *scorers):
        return expected_toxicity.find_lexicon(ExpectedToxicityConfig(**config), scorers)

    other = SimpleNamespace()
    assert find({}, other, LEXICON) is LEXICON
    assert find({}, other) is None
    assert find({"n_paths": 0}, LEXICON) is None
    named = find({"lexicon": "lexicon:synthetic:lexicon"}, LEXICON)
    assert isinstance(named, Lexicon)
    assert named.id != LEXICON.id
    with pytest.raises(ConfigurationError, match="lexicon is 'profanity'"):
        ExpectedToxicityConfig(lexicon="profanity")

import os
import shutil
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from tiny_encoder import tokenizer_of

from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from data_prep.scorers import load_scorer

transformers = pytest.importorskip("transformers", reason="the extra classifiers is not installed")
COMMIT, OTHER_COMMIT = "0123456789abcdef" * 2 + "01234567", "f" * 40
SIZE = {
    "vocab_size": 12,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 40,
    "initializer_range": 0.5,
}
WORDS = ["a", "b", "c", "d", "e", "f"]
TEXTS = ["a b c", "f e", "d d d d a"]
JIGSAW = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]
UNBIASED = [
    *("toxicity", "severe_toxicity", "obscene", "identity_attack", "insult", "threat"),
    *("sexual_explicit", "male", "female", "homosexual_gay_or_lesbian", "christian", "jewish"),
    *("muslim", "black", "white", "psychiatric_or_mental_illness"),
]


def save_model(folder: Path, family: str, labels: list[str], **config) -> Path:
    """A classifier of this family with random weights."""
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(labels)), "label2id": {x: i for i, x in enumerate(labels)}}
    settings = getattr(transformers, f"{family}Config")(**SIZE, **names, **config)
    getattr(transformers, f"{family}ForSequenceClassification")(settings).save_pretrained(folder)
    tokenizer_of(WORDS).save_pretrained(folder)
    return folder


def logits_of(folder: Path) -> torch.Tensor:
    """The logits of each text alone."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        rows = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in TEXTS]
    return torch.stack(rows).double()


@pytest.mark.parametrize(
    ("name", "family", "labels", "config", "column", "activation"),
    [
        ("granite-guardian-hap-125m", "Roberta", ["LABEL_0", "LABEL_1"], {}, 1, "softmax"),
        ("granite-guardian-hap-38m", "Roberta", ["LABEL_0", "LABEL_1"], {}, 1, "softmax"),
        ("toxigen_roberta", "Roberta", ["LABEL_0", "LABEL_1"], {}, 1, "softmax"),
        ("unbiased-toxic-roberta", "Roberta", UNBIASED, {}, 0, "sigmoid"),
        ("toxic-bert", "Bert", JIGSAW, {}, 0, "sigmoid"),
        ("any", "Bert", ["neither", "hate"], {}, 1, "softmax"),
        (
            "any",
            "Bert",
            ["insult", "hate", "threat"],
            {"problem_type": "multi_label_classification"},
            1,
            "sigmoid",
        ),
        (
            "any",
            "Bert",
            ["hate", "offensive", "neither"],
            {"problem_type": "single_label_classification"},
            0,
            "softmax",
        ),
    ],
)
def test_each_candidates_head_is_read_as_its_card_says(
    tmp_path, name, family, labels, config, column, activation
):
    folder = save_model(tmp_path / name, family, labels, **config)
    logits = logits_of(folder)
    p = logits.sigmoid() if activation == "sigmoid" else logits.softmax(-1)
    scorer = load_scorer.load(f"classifier:{folder}")
    assert scorer.score(TEXTS) == pytest.approx(p[:, column].tolist(), abs=2e-6)
    assert f"#label={labels[column]}&{activation}&" in scorer.id


def test_a_generative_guard_is_refused_for_want_of_a_head(tmp_path):
    config = transformers.Qwen3Config(**(SIZE | {"head_dim": 4, "num_key_value_heads": 1}))
    transformers.Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    tokenizer_of(WORDS).save_pretrained(tmp_path)
    with pytest.raises(ArtefactCorrupt, match=r"weights lack score.weight.*trained to classify"):
        load_scorer.load(f"classifier:{tmp_path}#label=LABEL_1")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one model, as its cache lays it out; returns the commits that were asked for."""
    import huggingface_hub

    asked = []
    model = save_model(tmp_path / "model", "Bert", ["civil", "toxic"])

    def download(name, revision, **_):
        asked.append(revision)
        snapshot = tmp_path / "cache" / name.replace("/", "--") / (revision or OTHER_COMMIT)
        if not snapshot.exists():
            shutil.copytree(model, snapshot)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_a_pinned_name_asks_for_its_commit_and_has_it_in_the_id(hub, caplog):
    scorer = load_scorer.load(f"classifier:org/polite@{COMMIT}#max_length=9")
    assert hub == [COMMIT] and not caplog.records
    assert scorer.id.startswith(f"classifier-polite@{COMMIT[:12]}-")
    assert scorer.id.endswith("#label=toxic&softmax&max_length=9")


def test_an_unpinned_name_is_warned_of_with_the_commit_to_pin(hub, caplog):
    scorer = load_scorer.load("classifier:org/polite")
    assert hub == [None]
    assert f"pin it: classifier:org/polite@{OTHER_COMMIT}" in caplog.text
    assert scorer.id.startswith(f"classifier-polite@{OTHER_COMMIT[:12]}-")


@pytest.mark.parametrize(
    "revision", ["main", "v1.0", "refs/pr/3", COMMIT[:8], f"{COMMIT}0", COMMIT.upper(), ""]
)
def test_a_revision_that_is_no_commit_is_refused(revision):
    with pytest.raises(ConfigurationError, match=r"the revision behind @ is .*40 hex digits"):
        load_scorer.load(f"classifier:org/polite@{revision}")


def test_a_local_folder_has_no_revision_and_may_have_an_at_sign(tmp_path):
    folder = save_model(tmp_path / "polite", "Bert", ["civil", "toxic"])
    with pytest.raises(ConfigurationError, match="is a local folder, which has no revision"):
        load_scorer.load(f"classifier:{folder}@{COMMIT}")
    with_sign = shutil.copytree(folder, tmp_path / "polite@home")
    assert load_scorer.load(f"classifier:{with_sign}").id.startswith("classifier-polite@home-")


def test_a_commit_that_the_hub_lacks_is_missing():
    with pytest.raises(ArtefactMissing, match="check the name and the commit, or download it"):
        load_scorer.load(f"classifier:nobody/nothing@{COMMIT}")

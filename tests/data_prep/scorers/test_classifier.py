import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from data_prep.scorers import classifier, load_scorer, transformer_folder
from data_prep.sources import corpus_reader

transformers = pytest.importorskip("transformers", reason="the extra classifiers is not installed")


def synthetic_texts(uri):
    return [d.text for source in corpus_reader.expand([uri]) for d in corpus_reader.read(source)]


def word_tokenizer(texts):
    """Whole words, with RoBERTa's special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = sorted(
        {word for text in texts for word, _ in pre_tokenizers.Whitespace().pre_tokenize_str(text)}
    )
    vocabulary = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *words])}
    engine = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    engine.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    special = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
    }
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=engine, unk_token="<unk>", model_max_length=60, **special
    )


def save_classifier(folder, tokenizer, labels, train=None, **config):
    """A one-layer RoBERTa with these labels, trained on (texts, label numbers) where some are
    given.
    """
    torch.manual_seed(0)
    settings = transformers.RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.1,
        pad_token_id=1,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        **config,
    )
    model = transformers.RobertaForSequenceClassification(settings)
    if train:
        texts, labels_of_texts = train
        batch = tokenizer(texts, truncation=True, max_length=60, padding=True, return_tensors="pt")
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
        for _ in range(24):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(
                model(**batch).logits, torch.tensor(labels_of_texts)
            ).backward()
            optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """More of them only wait for each other over matrices this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def snippets():
    """Beginnings of documents, clean and toxic in turn."""
    clean = synthetic_texts("synthetic:clean?documents=200&natural=0&poly=0")
    both = zip(clean, synthetic_texts("synthetic:toxic?documents=200&poly=0"), strict=True)
    return [" ".join(text.split()[:40]) for pair in both for text in pair]


@pytest.fixture(scope="module")
def tokenizer(snippets):
    return word_tokenizer(snippets)


@pytest.fixture(scope="module")
def trained(snippets, tokenizer, tmp_path_factory):
    """A classifier that has seen the first half of the snippets."""
    train = (snippets[:200], [0, 1] * 100)
    return save_classifier(
        tmp_path_factory.mktemp("trained") / "rude", tokenizer, ["civil", "toxic"], train
    )


@pytest.fixture(scope="module")
def scorer(trained):
    return load_scorer.load(f"classifier:{trained}")


def test_unseen_toxic_text_scores_above_clean_text(scorer, snippets):
    scores = scorer.score(snippets[200:])
    above = [toxic > clean for toxic in scores[1::2] for clean in scores[::2]]
    assert sum(above) > 0.9 * len(above)


def test_a_score_is_the_probability_of_the_toxic_label(scorer, trained, snippets):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(trained).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained)
    for text in snippets[200:204]:
        with torch.no_grad():
            expected = model(
                **tokenizer(text, truncation=True, max_length=60, return_tensors="pt")
            ).logits.softmax(-1)[0, 1]
        assert scorer.score([text]) == [pytest.approx(float(expected), abs=1e-5)]


def test_order_repetition_and_batch_do_not_change_a_score(scorer, snippets, monkeypatch):
    texts = [" ".join(text.split()[: 3 + i % 20]) for i, text in enumerate(snippets[:60])]
    scores = scorer.score(texts)
    assert scorer.score(texts[::-1])[::-1] == scores and scorer.score(texts + texts)[60:] == scores
    monkeypatch.setattr(transformer_folder, "BATCH_TOKENS", 40)
    assert scorer.score(texts) == pytest.approx(scores, abs=2e-6)


def test_empty_text_has_no_score_and_lone_surrogates_are_scored(scorer):
    assert scorer.score(["", " \n"]) == [None, None] and scorer.score([]) == []
    assert 0 < scorer.score(["half a character \udce2"])[0] < 1


def test_a_score_that_is_nan_is_missing(scorer, monkeypatch):
    monkeypatch.setattr(scorer, "_score", lambda rows: [float("nan") for _ in rows])
    assert scorer.score(["some text"]) == [None]


def test_long_text_is_truncated_at_max_length(trained, snippets):
    short = load_scorer.load(f"classifier:{trained}#max_length=6")
    words = snippets[1].split()
    assert short.score([" ".join(words[:4])]) == short.score([" ".join(words[:4] * 3)])
    with pytest.raises(
        ConfigurationError, match="max_length 61 exceeds the 60 tokens that the model can read"
    ):
        load_scorer.load(f"classifier:{trained}#max_length=61")


def test_the_id_changes_with_label_length_and_every_file(trained, scorer, tmp_path):
    assert scorer.id.startswith("classifier-rude-") and scorer.id.endswith(
        "#label=toxic&softmax&max_length=60"
    )
    other = load_scorer.load(f"classifier:{trained}#label=civil&max_length=9").id
    assert (
        other.endswith("#label=civil&softmax&max_length=9")
        and other.split("#")[0] == scorer.id.split("#")[0]
    )
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        folder = tmp_path / name / "rude"
        folder.mkdir(parents=True)
        for path in classifier.Path(trained).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / name).write_bytes((folder / name).read_bytes() + b" ")
        digests = [
            transformer_folder.content_digest(classifier.Path(path), classifier.FILE_PATTERNS)
            for path in (folder, trained)
        ]
        assert digests[0] != digests[1]


def test_independent_labels_use_sigmoid(tmp_path, tokenizer):
    labels = ["toxicity", "insult", "threat"]
    folder = save_classifier(
        tmp_path / "several", tokenizer, labels, problem_type="multi_label_classification"
    )
    scores = [
        load_scorer.load(f"classifier:{folder}#label={label}").score(["the cat"])[0]
        for label in labels
    ]
    with torch.no_grad():
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
        logits = model(**tokenizer("the cat", return_tensors="pt")).logits[0]
    assert scores == pytest.approx(logits.sigmoid().tolist(), abs=1e-5)
    assert load_scorer.load(f"classifier:{folder}").score(["the cat"]) == scores[:1]


def test_a_known_head_needs_no_label_and_an_unknown_one_is_refused(tmp_path, tokenizer):
    known = save_classifier(
        tmp_path / "granite-guardian-hap-38m", tokenizer, ["LABEL_0", "LABEL_1"]
    )
    assert "#label=LABEL_1&softmax" in load_scorer.load(f"classifier:{known}").id
    several = ["toxicity", "insult", "male"]
    known = save_classifier(tmp_path / "unbiased-toxic-roberta", tokenizer, several)
    assert "#label=toxicity&sigmoid" in load_scorer.load(f"classifier:{known}").id
    unknown = save_classifier(tmp_path / "hate-or-not", tokenizer, ["LABEL_0", "LABEL_1"])
    with pytest.raises(
        ConfigurationError,
        match=r"labels are LABEL_0, LABEL_1; it is not known which one means toxic; .*#label=NAME",
    ):
        load_scorer.load(f"classifier:{unknown}")
    with pytest.raises(ConfigurationError, match="the label 'rude' is not among them"):
        load_scorer.load(f"classifier:{unknown}#label=rude")
    three = save_classifier(tmp_path / "three", tokenizer, ["a", "b", "toxic"])
    with pytest.raises(
        ConfigurationError, match="it is not known whether its 3 labels exclude each other"
    ):
        load_scorer.load(f"classifier:{three}")


def test_weights_without_a_head_are_refused(tmp_path, trained, tokenizer):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(trained)
    model.roberta.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    with pytest.raises(ArtefactCorrupt, match=r"its weights lack classifier\.dense\.bias"):
        load_scorer.load(f"classifier:{tmp_path / 'base'}#label=LABEL_1")


def test_pickled_weights_are_never_read(tmp_path, trained):
    for path in classifier.Path(trained).iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ArtefactMissing, match=r"has no \*\.safetensors"):
        load_scorer.load(f"classifier:{tmp_path}")


def test_truncated_weights_are_refused_by_name(tmp_path, trained):
    for path in classifier.Path(trained).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ArtefactCorrupt, match="cannot be loaded as a sequence classifier"):
        load_scorer.load(f"classifier:{tmp_path}")


def test_model_code_in_the_folder_is_never_run(tmp_path, trained):
    for path in classifier.Path(trained).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    loaders = {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"}
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"auto_map": loaders, "model_type": "evil"})
    )
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ArtefactCorrupt, match="cannot be loaded"):
        load_scorer.load(f"classifier:{tmp_path}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "fragment",
    ["labels=x", "label", "max_length=many", "max_length=0", "activation=tanh", "label=a&label=b"],
)
def test_options_are_checked_before_anything_is_loaded(fragment):
    with pytest.raises(ConfigurationError, match=r"classifier:x/y#.*: "):
        load_scorer.load(f"classifier:x/y#{fragment}")


def test_a_name_that_is_no_folder_and_not_on_the_hub_is_missing():
    with pytest.raises(
        ArtefactMissing, match="nobody/nothing is no local folder, and the hub did not provide it"
    ):
        load_scorer.load("classifier:nobody/nothing")


def test_without_transformers_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ArtefactMissing, match=r"install hormesis\[classifiers\]"):
        load_scorer.load("classifier:x/y")

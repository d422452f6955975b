"""The tokenizer is pinned, encodes control tokens as text, and both engines agree."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.config import TokenizerConfig
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.token_stream.tokenizer import EnginesDiffer, Tokenizer, load, save, train

TOKENIZERS = Path(__file__).parents[4] / "shared/data/tokenizers"
OLMO = TOKENIZERS / "allenai_gpt-neox-olmo-dolma-v1_5.json"
SIBLING = TOKENIZERS / "allenai_eleuther-ai-gpt-neox-20b-pii-special.json"
GOV_BLOGS = TOKENIZERS.parent / "gov_blogs"
OLMO_FINGERPRINT = "c617c8fc4ad73eba"

CONFIG = TokenizerConfig(source="train", vocab_size=300)
TEXTS = [
    "the cat sat on the mat, the rat sat on the hat, and then the other cat gathered all of the "
    "leather together",
    "a hat for the cat and a mat for the rat; whether that is better than another rather bitter "
    "matter is not said",
]


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return train(iter(TEXTS), CONFIG)


def json_with(tokenizer: Tokenizer, **changes: object) -> str:
    return json.dumps(json.loads(tokenizer.json) | changes)


def test_training_reaches_the_vocabulary_size_with_eos_first(small: Tokenizer) -> None:
    assert (small.n_ids, small.eos_id, small.engine) == (300, 0, "fastokens")


def test_training_again_in_another_process_gives_the_same_json(small: Tokenizer) -> None:
    program = (
        "from data_prep.config import TokenizerConfig\n"
        "from data_prep.token_stream.tokenizer import train\n"
        "config = TokenizerConfig(source='train', vocab_size=300)\n"
        f"print(train(iter({TEXTS!r}), config).json, end='')"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == small.json


def test_training_reads_no_more_than_train_bytes(small: Tokenizer) -> None:
    def texts():
        yield TEXTS[0]
        yield "zq" * 50
        raise AssertionError("read on")

    budget = replace(CONFIG, vocab_size=262, train_bytes=len(TEXTS[0]) + 4)
    assert (
        train(texts(), budget).json
        == train(iter([TEXTS[0], "zqzq"]), replace(budget, train_bytes=10_000)).json
    )


def test_a_corpus_too_small_for_the_vocabulary_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"gives 25\d ids, data.tokenizer.vocab_size is 5,000"
    ):
        train(iter(["aa"]), replace(CONFIG, vocab_size=5000))


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.text() | st.sampled_from(["<|endoftext|>", "x<|endoftext|>", " the  cat", ""]),
        max_size=6,
    )
)
def test_both_engines_agree_and_decoding_inverts_encoding(
    texts: list[str], small: Tokenizer
) -> None:
    batch = small.encode_batch(texts)
    small.check(texts, *batch)
    assert small.eos_id not in batch.ids
    ends = np.cumsum(batch.lengths)
    assert [
        small.decode(batch.ids[end - n : end]) for end, n in zip(ends, batch.lengths, strict=True)
    ] == texts
    slow = Tokenizer(small.json, "<|endoftext|>", "slow")
    slow._fast = None
    assert all(
        np.array_equal(a, b) and a.dtype == b.dtype
        for a, b in zip(batch, slow.encode_batch(texts), strict=True)
    )


def test_a_difference_is_shown_with_its_position_and_little_text(small: Tokenizer) -> None:
    text = "the cat sat on the mat " * 10
    ids, lengths = small.encode_batch(["the", text])
    wrong = ids.copy()
    wrong[lengths[0] + 5] = 299
    with pytest.raises(
        ArtefactCorrupt, match=rf"at id 5 of a document of {lengths[1]} ids .*got \[299,"
    ) as error:
        small.check(["the", text], wrong, lengths)
    assert text[:25] not in str(error.value)
    with pytest.raises(ArtefactCorrupt, match=rf"at id {lengths[1] - 1} "):
        small.check([text], ids[lengths[0] : -1], lengths[1:] - 1)


def test_saving_and_loading_keeps_bytes_and_fingerprint(small: Tokenizer, tmp_path: Path) -> None:
    uri = str(tmp_path / "tokenizer.json")
    save(small, uri)
    again = load(uri, replace(CONFIG, fingerprint=small.fingerprint))
    assert (again.json, again.fingerprint) == (small.json, small.fingerprint)


def test_special_ids_change_the_fingerprint_and_layout_does_not(
    small: Tokenizer,
) -> None:
    parsed = json.loads(small.json)
    assert (
        Tokenizer(json.dumps(parsed, indent=4, sort_keys=True), CONFIG.eos, "x").fingerprint
        == small.fingerprint
    )
    vocab = parsed["model"]["vocab"]
    vocab["<|endoftext|>"], vocab["!"] = vocab["!"], vocab["<|endoftext|>"]
    parsed["added_tokens"][0]["id"] = vocab["<|endoftext|>"]
    other = Tokenizer(json.dumps(parsed), CONFIG.eos, "x")
    assert other.eos_id == 1 and other.fingerprint != small.fingerprint


def test_truncation_in_the_json_does_not_cut_documents(small: Tokenizer) -> None:
    text = json_with(
        small,
        truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
    )
    assert (
        Tokenizer(text, CONFIG.eos, "x").encode_batch(TEXTS[:1]).ids.tolist()
        == small.encode_batch(TEXTS[:1]).ids.tolist()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "0" * 16}, r"fingerprint is .* expected 0000000000000000"),
        ({"vocab_size": 301}, r"has 300 ids, data.tokenizer.vocab_size is 301"),
        ({"eos": "</s>"}, r"no token '</s>' among 300"),
    ],
)
def test_a_tokenizer_other_than_the_pinned_one_is_refused(
    small: Tokenizer, tmp_path: Path, change: dict, message: str
) -> None:
    uri = str(tmp_path / "tokenizer.json")
    save(small, uri)
    with pytest.raises(ConfigurationError, match=message):
        load(uri, replace(CONFIG, **change))


def test_an_eos_that_is_matched_inside_text_is_refused(small: Tokenizer) -> None:
    added = [token | {"special": False} for token in json.loads(small.json)["added_tokens"]]
    with pytest.raises(ConfigurationError, match="encoded as the control id 0; expected text"):
        Tokenizer(json_with(small, added_tokens=added), CONFIG.eos, "x")


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[1]",
        '{"model": 3}',
        '{"model": {"type": "BPE", "vocab": {"<|endoftext|>": 0}}}',
    ],
)
def test_a_file_that_is_not_a_tokenizer_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^here: "):
        Tokenizer(text, CONFIG.eos, "here")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x0a\x0e\x08\xff\xfe", "not SentencePiece's tokenizer.model"),
        (b'{"tokenizer_class": "LlamaTokenizer"}', "not tokenizer_config.json"),
        (b'{"the": 0, "cat": 1}', "not tokenizer_config.json, config.json or vocab.json"),
        (b'{"model": {"type": "BPE", "vo', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"model": {"vocab": {}}}', "without the tokens of a model"),
        (b'{"model": {"vocab": null}}', "without the tokens of a model"),
        (b'{"model": {"vocab": {"a": null}}}', "None as the id of 'a'"),
        (b'{"model": {"vocab": {"a": -1}}}', "-1 as the id of 'a'"),
        (b'{"model": {"vocab": {"a": 1e400}}}', "inf as the id of 'a'"),
        (b'{"model": {"vocab": [["a"]]}}', "a token with its score"),
        (b'{"model": {"vocab": {"a": 0}}, "added_tokens": null}', "added_tokens is null"),
        (b'{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1}]}', "without a content"),
        (b'{"model": {"vocab": {"<|endoftext|>": 0}}}', "tokenizers cannot load it"),
    ],
)
def test_a_file_of_another_kind_is_told_what_is_expected(
    content: bytes, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "given"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError) as error:
        load(str(file), CONFIG)
    message = str(error.value)
    assert message.startswith(str(file)) and words in message and "\n" not in message
    assert "expected a tokenizer.json of the tokenizers library" in message


def test_a_folder_and_a_name_of_the_hub_are_told_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"name the file, {tmp_path}/tokenizer.json"):
        load(str(tmp_path), CONFIG)
    with pytest.raises(ConfigurationError, match="hf download NAME"):
        load(str(tmp_path / "allenai/OLMo-1B-hf"), CONFIG)


def test_a_byte_order_mark_is_no_part_of_the_tokenizer(small: Tokenizer, tmp_path: Path) -> None:
    uri = str(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_bytes(b"\xef\xbb\xbf" + small.json.encode())
    assert load(uri, CONFIG).fingerprint == small.fingerprint


def test_a_missing_eos_names_the_control_tokens_there_are(small: Tokenizer) -> None:
    with pytest.raises(ConfigurationError, match=r"its control tokens: <\|endoftext\|>\)"):
        Tokenizer(small.json, "</s>", "x")


def sentencepiece_bpe() -> str:
    """A small BPE of SentencePiece's kind: metaspace for blanks, bytes for unknown characters."""
    from tokenizers import Tokenizer as Engine
    from tokenizers import decoders, models, normalizers, trainers

    engine = Engine(models.BPE(byte_fallback=True, unk_token="<unk>"))
    engine.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    engine.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    engine.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=tokens, show_progress=False)
    )
    return engine.to_str()


def test_the_remedy_lets_a_tokenizer_of_sentencepiece_encode(tmp_path: Path) -> None:
    uri = str(tmp_path / "tokenizer.json")
    Path(uri).write_text(sentencepiece_bpe(), encoding="utf-8")
    config = replace(CONFIG, source=uri, eos="</s>")
    with pytest.raises(EnginesDiffer, match=r"set data\.tokenizer\.on_difference=fall_back"):
        load(uri, config)
    tokenizer = load(uri, replace(config, on_difference="fall_back"))
    texts = [*TEXTS, "naïve 😀\n\ttext", "a </s> in <s> the <0x41> text", ""]
    batch = tokenizer.encode_batch(texts)
    tokenizer.check(texts, *batch)
    assert tokenizer.engine == "tokenizers" and tokenizer.eos_id not in batch.ids
    ends = np.cumsum(batch.lengths)
    decoded = [
        tokenizer.decode(batch.ids[end - n : end])
        for end, n in zip(ends, batch.lengths, strict=True)
    ]
    assert decoded == texts


def test_every_control_token_in_a_text_is_compared_with_the_reference(small: Tokenizer) -> None:
    parsed = json.loads(small.json)
    more = parsed["added_tokens"][0] | {"id": 300, "content": "<|other|>"}
    tokenizer = Tokenizer(
        json_with(small, added_tokens=[*parsed["added_tokens"], more]), CONFIG.eos, "x"
    )

    class MatchingEngine:
        def encode_batch_flat(self, texts: list[str], *_: bool) -> tuple[bytes, bytes]:
            batch = small.encode_batch([text.replace("<|other|>", "") for text in texts])
            offsets = np.concatenate([[0], np.cumsum(batch.lengths)]).astype(np.uint64)
            return batch.ids.tobytes(), offsets.tobytes()

    tokenizer._fast = MatchingEngine()
    with pytest.raises(EnginesDiffer):
        tokenizer._check_literals([CONFIG.eos, "<|other|>"], "x", "stop")
    tokenizer._check_literals([CONFIG.eos, "<|other|>"], "x", "fall_back")
    assert tokenizer.engine == "tokenizers"


def test_a_unigram_model_is_read_and_encodes_by_the_reference(tmp_path: Path) -> None:
    vocabulary = [["<unk>", 0.0], *([letter, -2.0] for letter in "abcdefgh ▁")]
    parsed = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": 10,
                "content": "</s>",
                "special": True,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
        ],
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocabulary, "byte_fallback": False},
    }
    tokenizer = Tokenizer(json.dumps(parsed), "</s>", "x", "fall_back")
    assert (tokenizer.n_ids, tokenizer.eos_id) == (11, 10)
    assert tokenizer.encode_batch(["abba"]).ids.tolist() == [1, 2, 2, 1]


@pytest.fixture(scope="module")
def olmo() -> Tokenizer:
    if not OLMO.exists():
        pytest.skip("OLMo's tokenizer is not in ../shared/data")
    return load(
        str(OLMO),
        TokenizerConfig(source=str(OLMO), vocab_size=50_280, fingerprint=OLMO_FINGERPRINT),
    )


@pytest.mark.skipif(not OLMO.exists(), reason="OLMo's tokenizer is not in ../shared/data")
class TestOlmo:
    def test_its_sibling_with_eos_0_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match=rf"\(eos id 0\), expected {OLMO_FINGERPRINT}"):
            load(
                str(SIBLING),
                TokenizerConfig(
                    source=str(SIBLING), vocab_size=50_280, fingerprint=OLMO_FINGERPRINT
                ),
            )

    def test_control_tokens_are_text_and_runs_of_spaces_one_id(self, olmo: Tokenizer) -> None:
        assert (olmo.eos_id, olmo.n_ids, olmo.engine) == (50_279, 50_280, "fastokens")
        texts = ["a<|endoftext|>b", "x    y"]
        ids, lengths = olmo.encode_batch(texts)
        olmo.check(texts, ids, lengths)
        assert ids[:8].tolist() == [66, 29, 93, 423, 1171, 1156, 49651, 67]
        assert ids[8:].tolist() == [89, 50274, 90]
        assert lengths.tolist() == [8, 3]

    @pytest.mark.skipif(not GOV_BLOGS.exists(), reason="gov_blogs is not in ../shared/data")
    def test_both_engines_agree_on_real_text(self, olmo: Tokenizer) -> None:
        from data_prep.sources import corpus_reader

        sources = corpus_reader.expand([f"{GOV_BLOGS}/*.json*"])
        texts = [document.text for document in islice(corpus_reader.read(sources[0]), 150)]
        assert len(texts) == 150
        olmo.check(texts, *olmo.encode_batch(texts))

"""Secrets in URIs and settings are refused and never repeated; plain http is named once."""

import logging

import pytest
from fsspec.asyn import sync

from data_prep.config import DataConfig, TokenizerConfig
from data_prep.core import storage, telemetry
from data_prep.core.errors import ArtefactMissing, ConfigurationError, StorageError, mask_secrets
from data_prep.core.store import locations, s3
from data_prep.core.store.s3 import RetryingS3
from data_prep.sources import corpus_reader
from training.config import ModelConfig, OptimizerConfig, TrainConfig

SECRET = "wJalrXUtnFEMI-K7MDENG"
TOKENIZER = TokenizerConfig(source="train", vocab_size=300)
WITH_SECRET = [
    f"s3://AKIA0123:{SECRET}@bucket/prefix",
    f"s3://{SECRET}@bucket/prefix",
    f"https://me:{SECRET}@host.example/rows.jsonl",
    f"gs://me:{SECRET}@bucket/rows.jsonl",
    f"file://me:{SECRET}@host/rows.jsonl",
    f"memory://me:{SECRET}@host/rows.jsonl",
]


@pytest.mark.parametrize("uri", WITH_SECRET)
def test_a_uri_with_credentials_is_refused_without_repeating_them(uri: str) -> None:
    for use in (storage.read, storage.glob, storage.exists, storage.object_root, storage.is_remote):
        with pytest.raises(ConfigurationError, match=r"://\*\*\*@") as error:
            use(uri)
        assert SECRET not in str(error.value) and "environment" in str(error.value)
        assert SECRET not in repr(error.value)


@pytest.mark.parametrize("uri", WITH_SECRET)
def test_a_setting_with_credentials_is_refused_before_it_is_saved(uri: str) -> None:
    with pytest.raises(ConfigurationError, match=r"data\.clean.*\*\*\*@") as error:
        DataConfig(clean=(uri,), toxic=("b.jsonl",), tokenizer=TOKENIZER)
    assert SECRET not in str(error.value)
    with pytest.raises(ConfigurationError, match=r"train\.init_from.*\*\*\*@") as error:
        TrainConfig(
            model=ModelConfig(d_model=32, n_layers=1, n_heads=2, d_mlp=32, vocab_size=300),
            optimizer=OptimizerConfig(learning_rate=1e-3),
            sequence_length=8,
            global_batch=2,
            init_from=uri,
        )
    assert SECRET not in str(error.value)


def test_a_corpus_with_credentials_is_refused_without_repeating_them() -> None:
    with pytest.raises(ConfigurationError) as error:
        corpus_reader.expand((WITH_SECRET[0],))
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("uri", ["a@b:c.jsonl", "s3://bucket/me@home:x/y", "synthetic:a?b=c@d"])
def test_an_at_sign_outside_the_host_is_no_secret(uri: str) -> None:
    assert mask_secrets(uri) == uri
    DataConfig(clean=(uri,), toxic=("b.jsonl",), tokenizer=TOKENIZER)


@pytest.mark.parametrize("cls", [ConfigurationError, StorageError, ArtefactMissing])
def test_no_error_of_ours_repeats_credentials_of_a_url(cls: type[Exception]) -> None:
    error = cls(f'cannot connect to "http://me:{SECRET}@host:9000/bucket": refused')
    assert SECRET not in str(error) and "http://***@host:9000/bucket" in str(error)


def test_no_log_line_repeats_credentials_of_a_url(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.Logger("secrets")
    handler = telemetry._BarSafeHandler()
    handler.setFormatter(telemetry.log_formatter())
    logger.addHandler(handler)
    logger.warning("%s failed", f"http://me:{SECRET}@host:9000")
    printed = capsys.readouterr().err
    assert SECRET not in printed and "http://***@host:9000 failed" in printed


def test_an_endpoint_with_credentials_does_not_show_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://me:{SECRET}@127.0.0.1:9")
    monkeypatch.setattr(s3, "FIRST_CONTACT_SECONDS", 0.1)
    locations.filesystem_of.cache_clear()
    try:
        with pytest.raises(StorageError) as error:
            storage.read("s3://bucket/key")
        assert SECRET not in str(error.value)
    finally:
        locations.filesystem_of.cache_clear()


@pytest.mark.parametrize(
    ("endpoint", "is_warned"),
    [
        ("http://store.example:9000", True),
        ("http://10.0.0.7:9000", True),
        (f"http://me:{SECRET}@10.0.0.7", True),
        ("http://127.0.0.1:9000", False),
        ("http://localhost:9000", False),
        ("http://[::1]:9000", False),
        ("https://store.example", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_a_plain_http_endpoint_elsewhere_is_named_in_one_warning(
    variable: str,
    endpoint: str,
    is_warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(telemetry.logger, "propagate", True)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3.warn_of_plain_http.cache_clear()
    for _ in range(2):
        client = RetryingS3(skip_instance_cache=True)
        sync(client.loop, client.set_session)  # no request is sent
    messages = {(entry.created, entry.message) for entry in caplog.records}
    assert len(messages) == is_warned
    if is_warned:
        assert mask_secrets(endpoint) in caplog.text and SECRET not in caplog.text

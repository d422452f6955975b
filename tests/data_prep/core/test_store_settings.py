"""wrong settings of the S3 client are one line that names the variable, whatever botocore raises"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_prep.core import storage
from data_prep.core.errors import ConfigurationError, HormesisError, StorageError
from data_prep.core.store import locations, s3

WRONG_ENDPOINTS = [
    "127.0.0.1:9000",
    "localhost:9000",
    "minio",
    "http://",
    "http://[::1",
    "s3://bucket",
    "ftp://127.0.0.1:9000",
    "http://127.0.0.1:99999",
    "http://127.0.0.1:abc",
    "http://127.0.0.1:0",
    "http://a b:9000",
    "htp://127.0.0.1:9000",
    "//127.0.0.1:9000",
]


@pytest.fixture(autouse=True)
def own_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Credentials and an endpoint without a server, and no client of another test."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(s3, "FIRST_CONTACT_SECONDS", 0.1)
    locations.filesystem_of.cache_clear()
    yield
    locations.filesystem_of.cache_clear()


def message() -> str:
    """The error of a first contact with the store."""
    with pytest.raises(HormesisError) as error:
        storage.exists("s3://bucket/key")
    text = str(error.value)
    assert "\n" not in text and "; " in text
    return text


@pytest.mark.parametrize("endpoint", WRONG_ENDPOINTS)
@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_a_wrong_endpoint_is_named(
    variable: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, endpoint)
    with pytest.raises(ConfigurationError) as error:
        storage.read("s3://bucket/key")
    assert f"{variable} is {endpoint!r}" in str(error.value)
    assert "http://HOST:PORT or https://HOST:PORT" in str(error.value)


def test_the_remedy_for_a_wrong_endpoint_helps(
    s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", os.environ["AWS_ENDPOINT_URL"].removeprefix("http://"))
        with pytest.raises(ConfigurationError):
            storage.exists(f"{s3_server}/key")
    monkeypatch.undo()  # back to http://HOST:PORT
    assert not storage.exists(f"{s3_server}/no-such-key")


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_missing_certificates_are_named(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "/no/such/file.pem")
    assert f"{variable} is '/no/such/file.pem', which does not exist" in message()


def test_a_file_that_holds_no_certificate_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "certificates.pem").write_bytes(b"\0 no certificate")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:9")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "certificates.pem"))
    assert "check AWS_CA_BUNDLE" in message()


def test_an_unknown_profile_and_a_torn_file_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    assert "no-such-profile" in message() and "check AWS_PROFILE" in message()
    monkeypatch.delenv("AWS_PROFILE")
    locations.filesystem_of.cache_clear()
    (tmp_path / "config").write_bytes(b"no ini file\n[\xff")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert str(tmp_path / "config") in message() and "AWS_CONFIG_FILE" in message()


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [
        ("AWS_DEFAULT_REGION", "no region!", "check AWS_DEFAULT_REGION"),
        ("AWS_REQUEST_CHECKSUM_CALCULATION", "sometimes", "request_checksum_calculation"),
        ("AWS_S3_US_EAST_1_REGIONAL_ENDPOINT", "bogus", "bogus"),
    ],
)
def test_a_wrong_setting_of_the_client_is_named(
    variable: str, value: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert word in message()


def test_missing_credentials_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "AWS_SECRET_ACCESS_KEY" in message()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    assert "AWS_ACCESS_KEY_ID" in message()


def test_a_wrong_name_of_a_bucket_is_told_in_full() -> None:
    with pytest.raises(StorageError, match=r"Invalid bucket name .*check the name of the bucket"):
        storage.exists("s3://Bad_Bucket!/key")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (PermissionError("The provided token has expired."), "renew AWS_SESSION_TOKEN"),
        (PermissionError("The difference between the times is too large; skewed"), "clock"),
        (OSError("SSL validation failed"), "AWS_CA_BUNDLE"),
        (KeyError("x"), "AWS_ENDPOINT_URL"),
        (RuntimeError("a fault of another library"), "AWS_ENDPOINT_URL"),
    ],
)
def test_any_error_of_the_client_is_one_of_ours(error: Exception, remedy: str) -> None:
    with pytest.raises(StorageError, match=remedy), storage.store_errors("read", "s3://a/b"):
        raise error


def test_a_name_that_no_system_takes_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="null byte; check the name"):
        storage.read("/tmp/a\0b")
    with pytest.raises(StorageError, match="choose a shorter name"):
        storage.write("/tmp/" + "n" * 300, b"")

"""Which paths are URLs, what their files are called, and how they are written without secrets."""

import pytest

from extract.urls import file_name, folder_name, is_url, redacted, schemes


@pytest.mark.parametrize(
    "path",
    [
        *("C:/a.wav", "C:\\a.wav", "c://a.wav", "a:b.wav", "Q: why.wav", "ab:c.wav", "1:2.wav"),
        *("/data/s3:/a.wav", "/data/a://b.wav", "s/a:b.wav", "://a.wav", "1://a.wav", "a::b.wav"),
        *("", "s3:", "s3:/bucket/a.wav", "./http://a.wav"),
    ],
)
def test_a_path_with_a_colon_is_a_file(path):
    assert not is_url(path)
    assert file_name(path) == path.rpartition("/")[2]


@pytest.mark.parametrize(
    ("url", "name", "protocols"),
    [
        ("s3://bucket/in/a.wav", "a.wav", ("s3",)),
        ("s3://bucket/in/what?.wav", "what?.wav", ("s3",)),
        ("hf://datasets/me/speech/a.flac", "a.flac", ("hf",)),
        ("HTTPS://host/in/a.wav?token=1/2", "a.wav", ("https",)),
        ("https://me:word@host:8080/a.wav#part", "a.wav", ("https",)),
        ("zip://in/a.wav::/data/all.zip", "a.wav", ("zip",)),
        ("tar://a.wav::https://host/all.tar?sig=1", "a.wav", ("tar", "https")),
        ("memory://a.wav", "a.wav", ("memory",)),
        ("git+ssh://host/a.wav", "a.wav", ("git+ssh",)),
    ],
)
def test_a_url_names_its_file_and_its_protocols(url, name, protocols):
    assert is_url(url)
    assert file_name(url) == name
    assert schemes(url) == protocols


def test_a_folder_is_called_after_its_last_part_else_after_its_archive():
    assert folder_name("s3://bucket/in/speech.v1/") == "speech.v1"
    assert folder_name("s3://bucket") == "bucket"
    assert folder_name("zip://::/data/all.zip") == "all.zip"
    assert folder_name("zip://in::/data/all.zip") == "in"
    assert folder_name("tar://::https://me:word@host/x/all.tar?sig=1") == "all.tar"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://host/a.wav", "https://host/a.wav"),
        ("https://me:word@host/a.wav", "https://***@host/a.wav"),
        ("https://me:w@rd@host/a.wav", "https://***@host/a.wav"),
        (
            "https://host/a.wav?X-Amz-Signature=12&id=7",
            "https://host/a.wav?X-Amz-Signature=***&id=***",
        ),
        ("https://host/a.wav?secret", "https://host/a.wav?***"),
        ("https://host/a.wav?a=1=2#token=3", "https://host/a.wav?a=***#token=***"),
        ("zip://a.wav::https://h/x.zip?sig=1", "zip://a.wav::https://h/x.zip?sig=***"),
        ("sftp://me:word@host/a@b.wav", "sftp://***@host/a@b.wav"),
        ("s3://bucket/me@home/what?.wav", "s3://bucket/me@home/what?.wav"),
        ("s3://bucket/a.wav?versionId=1", "s3://bucket/a.wav?versionId=***"),
        ("403, url='https://u:p@h/a.wav?t=1'; no", "403, url='https://***@h/a.wav?t=***'; no"),
        ("what? me@home a=1", "what? me@home a=1"),
        ("/data/what?a=1.wav", "/data/what?a=1.wav"),
    ],
)
def test_secrets_are_left_out(text, shown):
    assert redacted(text) == shown
    assert redacted(shown) == shown

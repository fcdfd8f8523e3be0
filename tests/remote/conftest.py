"""Servers on this machine."""

import pytest

pytest.importorskip("fsspec")

from support.servers import bucket_server, web_server


@pytest.fixture
def web():
    with web_server() as found:
        yield found


@pytest.fixture(scope="session")
def s3():
    with bucket_server() as found:
        yield found


@pytest.fixture
def s3_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the calls that s3fs makes."""
    import s3fs

    calls, really = list[str](), s3fs.S3FileSystem._call_s3

    async def noted(self, method, *arguments, **options):
        calls.append(method)
        return await really(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", noted)
    return calls

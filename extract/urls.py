"""URLs among paths: which text is one, the name of its file, and how it is written without secrets.

A URL is what fsspec reads, links of a chain with `::` between them: `s3://bucket/a.wav`,
`zip://speaker/a.wav::https://host/all.zip`.
"""

from __future__ import annotations

import re

CHAIN = "::"  # between a member and its archive

_START = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two characters at least: `C:/` is a drive
_USER = re.compile(r"(?<=://)[^/\s'\"]*@")
_QUERY = re.compile(r"[?#][^\s'\"<>]*")
_WEB = re.compile(r"https?://", re.IGNORECASE)
_HIDDEN = "***"


def is_url(path: str) -> bool:
    """Whether a path is a URL; `C:/a.wav` and `a:b.wav` are files."""
    return "://" in path and _START.match(path) is not None


def was_url(path: str) -> bool:
    """Whether a path of pathlib's was made of a URL, of which it keeps one slash: `s3:/bucket`."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/[^/]", path) is not None


def as_url(path: str) -> str:
    """The URL of which pathlib made a path: see `was_url`."""
    return path.replace(":/", "://", 1)


def file_name(path: str) -> str:
    """The name of the file at a path or URL: `a.wav` of `https://host/a.wav?token=1`."""
    if is_url(path):
        path = path.partition(CHAIN)[0]
        path = re.split(r"[?#]", path)[0] if _WEB.match(path) else path
    return path.rpartition("/")[2]


def folder_name(url: str) -> str:
    """The name of the folder at a URL: `speech` of `s3://bucket/speech/`; else the archive's."""
    links = (link.rpartition("://")[2].rstrip("/") for link in url.split(CHAIN))
    names = (re.split(r"[?#]", link)[0].rpartition("/")[2] for link in links)
    return next(filter(None, names), "")


def schemes(url: str) -> tuple[str, ...]:
    """The protocols of a URL's chain: `zip`, `https`."""
    starts = (_START.match(link) for link in url.split(CHAIN))
    return tuple(start[0].removesuffix("://").lower() for start in starts if start)


def redacted(text: str) -> str:
    """`text` with `***` for the user, the password and a query's values in the URLs that it holds.

    `https://***@host/a.wav?token=***`. Text without a URL stays as it is.
    """
    if "://" not in text:
        return text
    hide = _without_values if _WEB.search(text) else _without_named_values
    return _QUERY.sub(hide, _USER.sub(f"{_HIDDEN}@", text))


def _without_values(query: re.Match[str]) -> str:
    parts = re.split(r"([&?#])", query[0])
    return "".join(part if part in ("", "&", "?", "#") else _hidden(part) for part in parts)


def _hidden(part: str) -> str:
    """`token=***` of `token=1`, and `***` of what names nothing."""
    name, equals, _value = part.partition("=")
    return f"{name}={_HIDDEN}" if equals else _HIDDEN


def _without_named_values(query: re.Match[str]) -> str:
    """As `_without_values`, but where nothing is named it is part of a name: `s3://b/what?.wav`."""
    return _without_values(query) if "=" in query[0] else query[0]

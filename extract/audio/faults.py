"""`AudioError`, and what FFmpeg and the operating system raise, turned into it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from av.error import FFmpegError

from extract.audio.resampling import UnmixableError
from extract.opener import NotAFileError, Opener, UnreachableError
from extract.values import Reason


class AudioError(Exception):
    """A recording that cannot be used: `reason` is the ledger's word, `str()` the detail.

    The detail reads *where: what was found; what was needed*.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)  # both in `args`, so that it pickles
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[1])


def undecodable(where: str, error: Exception) -> AudioError:
    """The `AudioError` for an error of FFmpeg or of the operating system."""
    problem = getattr(error, "strerror", None) or error
    return AudioError("undecodable", f"{where}: {problem}; a file FFmpeg can decode is needed")


@contextmanager
def faults_of_the_file(where: str) -> Iterator[None]:
    """Turns errors of FFmpeg and of the operating system within the block into `AudioError`s.

    Their reason is `undecodable`. An error that says memory ran out becomes a MemoryError. Other
    exceptions are faults of this program and pass through.
    """
    try:
        yield
    except UnmixableError as error:
        raise AudioError(
            "undecodable",
            f"{where}: {error}, for which FFmpeg has no mix to mono; usual speakers in the header "
            "or a single channel is needed (ffmpeg -i IN -af 'pan=mono|c0=c0' OUT)",
        ) from error
    except UnreachableError as error:
        detail = f"{where}: cannot be fetched: {error.strerror}; a recording is needed"
        raise AudioError("undecodable", detail) from error
    except (FFmpegError, OSError) as error:
        if isinstance(error, MemoryError) or error.errno == errno.ENOMEM:
            raise MemoryError(f"{where}: {error}") from error
        raise undecodable(where, error) from error


@contextmanager
def opened(opener: Opener, path: str, where: str) -> Iterator[BinaryIO]:
    """Opens the recording at `path` for the block; `where` names it in errors.

    Raises:
        AudioError: `missing` or `undecodable`.
    """
    with faults_of_the_file(where):
        try:
            file = opener.open(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise AudioError("missing", f"{where}: no such file; a recording is needed") from error
        except NotAFileError as error:
            raise AudioError(
                "undecodable", f"{where}: {error.strerror}; a regular file is needed"
            ) from error
    with file:
        yield file

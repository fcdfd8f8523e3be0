"""A Python on Linux that looks to the modules of `extract` as one on Windows does; only to them.

`disguise()` is for the start of a process, before anything of `extract` is imported. What Windows
lacks is missing in the `os`, `signal` and `multiprocessing` that they import, modules such as
`fcntl` cannot be imported, and `os.replace` and `os.unlink` refuse a file that is open here. The
standard library and the tests see the system as it is, and so does torch, but for SIGCHLD.

As a command it runs pytest in such a process: `make test-windows`. Tests marked `posix` are skipped
there.
"""

import builtins
import ctypes
import errno
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from enum import IntEnum
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

PACKAGE = "extract"
NO_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
_OF_OS = """
F_OK R_OK W_OK X_OK O_APPEND O_CREAT O_EXCL O_RDONLY O_RDWR O_TRUNC O_WRONLY P_NOWAIT P_NOWAITO
P_WAIT SEEK_CUR SEEK_END SEEK_SET EX_OK TMP_MAX DirEntry PathLike abc abort access
add_dll_directory altsep chdir chmod close closerange cpu_count curdir defpath device_encoding
devnull dup dup2 environ environb error execl execle execlp execlpe execv execve execvp execvpe
extsep fchmod fdopen fsdecode fsencode fspath fstat fsync ftruncate get_blocking get_exec_path
get_inheritable get_terminal_size getcwd getcwdb getenv getlogin getpid getppid isatty kill
lchmod linesep link listdir lseek lstat makedirs mkdir name open pardir path pathsep pipe popen
process_cpu_count putenv read readlink remove removedirs rename renames replace rmdir scandir
sep set_blocking set_inheritable spawnl spawnle spawnv spawnve stat stat_result strerror
supports_bytes_environ supports_dir_fd supports_effective_ids supports_fd
supports_follow_symlinks symlink system terminal_size times times_result truncate umask unlink
unsetenv urandom utime waitpid waitstatus_to_exitcode walk write
"""  # os.__all__ on Windows, less what Linux has not
OF_OS = set(_OF_OS.split())
SIGNALS = ("SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM")
OF_SIGNAL = {*SIGNALS, "Handlers", "SIG_DFL", "SIG_IGN", "default_int_handler", "getsignal"}
OF_SIGNAL |= {"raise_signal", "set_wakeup_fd", "signal", "strsignal", "valid_signals"}


class Seen(ModuleType):
    """A module as it is seen: some names are others, and all but those of `there` are missing."""

    def __init__(self, real: ModuleType, there: set[str] | None = None, **others: object) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(others)
        self._real, self._there = real, there

    def __getattr__(self, name: str) -> object:
        if self._there is not None and name not in self._there and not name.startswith("_"):
            raise AttributeError(f"{self.__name__}.{name}: not on Windows")
        return getattr(self._real, name)


def _context(method: str | None = None) -> object:
    if method not in (None, "spawn"):
        raise ValueError(f"cannot find context for {method!r}")
    return multiprocessing.get_context("spawn")


def _library(name: str | None, *rest: object) -> ctypes.CDLL:
    if name is None:
        raise TypeError("CDLL(None): not on Windows")
    return ctypes.CDLL(name, *rest)


def _backslashed(path: str) -> str:
    return path.replace("/", "\\")


def _walk(top: str | Path, *rest: object) -> Iterator[tuple[str, list[str], list[str]]]:
    for root, folders, files in os.walk(top, *rest):
        yield str(top) + _backslashed(root[len(str(top)) :]), folders, files


def _closed(call: str) -> Callable[..., None]:
    """`os.replace` or `os.unlink`, for files that this process has closed."""

    def change(*paths: str | Path) -> None:
        for path in paths:
            if _is_open(path):
                error = PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
                error.winerror = 32  # ERROR_SHARING_VIOLATION
                raise error
        getattr(os, call)(*paths)  # looked up now: tests patch them

    return change


def _is_open(path: str | Path) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    if not stat.S_ISREG(status.st_mode):
        return False
    return any(_is_same(link, status) for link in Path("/proc/self/fd").iterdir())


def _is_same(descriptor: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(descriptor.stat(), status)
    except OSError:  # one that was closed meanwhile
        return False


def _real_path(path: str | os.PathLike[str]) -> str:
    return _backslashed(os.path.realpath(path))


_PATH = Seen(os.path, realpath=_real_path)
_SIGNALS = IntEnum("Signals", {name: int(getattr(signal, name)) for name in SIGNALS})
SEEN = {
    "os": Seen(
        os,
        OF_OS,
        name="nt",
        sep="\\",
        path=_PATH,
        walk=_walk,
        O_BINARY=0,
        replace=_closed("replace"),
        unlink=_closed("unlink"),
    ),
    "sys": Seen(sys, platform="win32"),
    "signal": Seen(signal, OF_SIGNAL, Signals=_SIGNALS),
    "ctypes": Seen(ctypes, CDLL=_library),
    "multiprocessing": Seen(
        multiprocessing, get_all_start_methods=lambda: ["spawn"], get_context=_context
    ),
}


def _import(name: str, *rest: object) -> ModuleType:
    if name.partition(".")[0] in NO_MODULES:
        raise ModuleNotFoundError(f"No module named {name!r}: not on Windows", name=name)
    module = builtins.__import__(name, *rest)
    return SEEN.get(module.__name__, module)


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
        super().exec_module(module)
        if module.__name__ == "extract.data.workers":  # torch hears SIGCHLD everywhere else
            from torch.utils.data._utils import signal_handling

            signal_handling.IS_WINDOWS = True


class _Finder:
    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> object:
        if name.partition(".")[0] != PACKAGE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def disguise() -> None:
    """From now on, modules of `extract` are imported as they would be on Windows."""
    assert PACKAGE not in sys.modules
    sys.meta_path.insert(0, _Finder)


def is_disguised() -> bool:
    """Whether this process is."""
    return _Finder in sys.meta_path


def environment(folder: Path) -> dict[str, str]:
    """The environment of a process that is disguised, and so are those that it starts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text("from support.windows import disguise\ndisguise()\n")
    tests = Path(__file__).parents[1]
    paths = [folder, tests, tests.parent, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}


def main(arguments: list[str]) -> int:
    """Runs pytest in a disguised process; returns its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", *arguments]
        return subprocess.run(command, env=environment(Path(folder)), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The package on Windows and macOS, as far as Linux can simulate them.

A process of its own loses what these systems lack: modules, names of `os` and `signal`, and on Windows the
right to rename or remove an open file. Then it imports every module and does a bit of everything. Other
people's packages are imported before, since theirs are builds for Linux.
"""

import errno
import hashlib
import importlib
import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

BLOCKED = "fcntl resource termios tty pty pwd grp spwd syslog posix"
# Names in the standard library there, and `statvfs`, which `shutil` requires on Linux
WINDOWS_OS = """
    DirEntry EX_OK F_OK GenericAlias Mapping MutableMapping O_APPEND O_CREAT O_EXCL O_RDONLY O_RDWR
    O_TRUNC O_WRONLY P_NOWAIT P_NOWAITO P_WAIT PathLike R_OK SEEK_CUR SEEK_END SEEK_SET TMP_MAX W_OK X_OK
    abc abort access altsep chdir chmod close closerange cpu_count curdir defpath device_encoding devnull
    dup dup2 environ error execl execle execlp execlpe execv execve execvp execvpe extsep fdopen fsdecode
    fsencode fspath fstat fsync ftruncate get_exec_path get_inheritable get_terminal_size getcwd getcwdb
    getenv getlogin getpid getppid isatty kill linesep link listdir lseek lstat makedirs mkdir name open
    pardir path pathsep pipe popen putenv read readlink remove removedirs rename renames replace rmdir
    scandir sep set_inheritable spawnl spawnle spawnv spawnve st stat stat_result statvfs statvfs_result
    strerror supports_bytes_environ supports_dir_fd supports_effective_ids supports_fd
    supports_follow_symlinks symlink sys system terminal_size times times_result truncate umask
    uname_result unlink unsetenv urandom utime waitpid waitstatus_to_exitcode walk write"""
WINDOWS_SIGNALS = """
    SIGABRT SIGFPE SIGILL SIGINT SIGSEGV SIGTERM SIG_DFL SIG_IGN Handlers Signals default_int_handler
    getsignal raise_signal set_wakeup_fd signal strsignal valid_signals"""
LINUX_OS = """
    O_DIRECT O_LARGEFILE O_NOATIME O_PATH O_RSYNC O_TMPFILE copy_file_range eventfd fdatasync getrandom
    getxattr listxattr memfd_create pidfd_open pipe2 posix_fadvise posix_fallocate removexattr
    sched_getaffinity sched_setaffinity setxattr splice"""
LINUX_SIGNALS = "SIGCLD SIGPOLL SIGPWR SIGRTMAX SIGRTMIN SIGSTKFLT sigtimedwait sigwaitinfo"
WEIGHTS = b"weights" * 1000


def import_all() -> None:
    """Return all modules, those of training only if its extra is installed."""
    package = importlib.import_module("stemsplit")
    for found in pkgutil.walk_packages(package.__path__, "stemsplit."):
        if not found.name.endswith("__main__"):
            try:
                importlib.import_module(found.name)
            except ModuleNotFoundError as error:
                assert error.name in ("lightning", "tensorboard"), (found.name, error.name)


def keep(module: Any, names: str) -> None:
    for name in dir(module):
        if name not in names.split() and not name.startswith("_"):
            delattr(module, name)


def lose(module: Any, names: str) -> None:
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)


def sparing_open_files(action: Callable[..., None]) -> Callable[..., None]:
    """`os.replace` or `os.unlink` as on Windows."""

    def act(path: Any, *rest: Any, **named: Any) -> None:
        mine = {os.path.realpath(f"/proc/self/fd/{one}") for one in os.listdir("/proc/self/fd")}
        for one in (path, *rest):
            if os.path.realpath(one) in mine:
                raise PermissionError(errno.EACCES, "used by another process", os.fspath(path))
        action(path, *rest, **named)

    return act


def spare(*packages: str) -> None:
    """Make packages that are built for Linux still see Linux."""
    linux = {one: SimpleNamespace(**vars(one)) for one in (os, sys)}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in packages:
            for key, value in list(vars(module).items()):
                if value is os or value is sys:
                    setattr(module, key, linux[value])


def disguise(system: str) -> None:
    """Make this process look like one on another system."""
    import filelock  # noqa: F401  # which the package imports when it locks
    import huggingface_hub.file_download  # noqa: F401

    import_all()
    for name in [name for name in sys.modules if name.split(".")[0] == "stemsplit"]:
        del sys.modules[name]
    spare("soundfile", "filelock")
    if system == "win32":
        sys.modules.update(dict.fromkeys(BLOCKED.split()))  # type: ignore[arg-type]
        keep(os, WINDOWS_OS)
        keep(signal, WINDOWS_SIGNALS)
        shutil._USE_CP_SENDFILE = False  # type: ignore[attr-defined]
        for name in ("replace", "rename", "unlink", "remove"):
            setattr(os, name, sparing_open_files(getattr(os, name)))
    else:
        lose(os, LINUX_OS)
        lose(signal, LINUX_SIGNALS)
    sys.platform = system


def command(*arguments: str) -> int:
    from stemsplit.cli.main import run

    try:
        run(arguments)
    except SystemExit as error:
        return int(error.code or 0)


def act(url: str) -> None:
    """Run a bit of everything in the working folder."""
    from stemsplit.errors import SettingsError
    from stemsplit.hub.download import fetch_url
    from stemsplit.training.configfile import read_config
    from stemsplit.training.folder import RunFolder
    from stemsplit.training.recipes import recipe_text

    codes = [command("--help")]
    codes += [command("song.wav", "-m", "tiny", "-o", "stems", "--progress", "json") for _ in range(2)]
    codes += [command("song.wav", "-m", "classic", "-o", "flac", "-f", "flac", "--report", "report.json")]
    codes += [command("models", "list"), command("doctor")]
    fetched = [fetch_url(url, sha256=hashlib.sha256(WEIGHTS).hexdigest()) for _ in range(2)]
    Path("mine.yaml").write_text(recipe_text("fine-tune"), encoding="utf-8")
    file = read_config(Path("mine.yaml"), ["folder=runs/mine"])
    with RunFolder(file.config.folder).locked():
        RunFolder(file.config.folder).begin(file.config, fresh=True)
        try:
            RunFolder(file.config.folder).locked().__enter__()
        except SettingsError as error:
            told = str(error)
    Path("done.json").write_text(json.dumps({"codes": codes, "fetched": [*map(str, fetched)], "told": told}))


if __name__ == "__main__":
    disguise(sys.argv[1])
    import_all()
    act(sys.argv[2])
    sys.exit(0)


import numpy as np  # noqa: E402
import pytest  # noqa: E402
import soundfile  # noqa: E402

from tests.cli.conftest import environment, tones  # noqa: E402
from tests.hub.conftest import Site, site  # noqa: E402, F401

STEMS = [f"{stem}.wav" for stem in ("bass", "drums", "other", "vocals")]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="acts on Linux")
@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_another_system(tmp_path: Path, site: Site, system: str) -> None:  # noqa: F811
    soundfile.write(tmp_path / "song.wav", tones(1.0).T, 44100)
    site.files["/w/model.th"] = WEIGHTS
    home = {"STEMSPLIT_CACHE": str(tmp_path / "cache"), "STEMSPLIT_REGISTRY": str(tmp_path / "own.yaml")}
    done = subprocess.run(
        [sys.executable, __file__, system, f"{site.url}/w/model.th"],
        cwd=tmp_path,
        env={**environment(tmp_path, home), "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "done.json").read_text())
    assert found["codes"] == [0] * 6
    assert [event for event in done.stderr.splitlines() if '"skipped"' in event], done.stderr
    assert sorted(path.name for path in (tmp_path / "stems/song").iterdir()) == STEMS
    assert np.isfinite(soundfile.read(tmp_path / "stems/song/bass.wav")[0]).all()
    assert json.loads((tmp_path / "report.json").read_text())["summary"]["done"] == 1
    assert Path(found["fetched"][0]).read_bytes() == WEIGHTS and site.gets() == 1
    assert found["told"].endswith("another process trains in it")
    assert (tmp_path / "runs/mine/config.yaml").is_file()
    assert not [path for path in tmp_path.rglob(".*") if path.suffix == ".part"]
    assert "Usage: stemsplit" in done.stdout and "temporary" in done.stdout and "htdemucs" in done.stdout

"""A PostgreSQL server for tests, in a folder of its own: it is found by a socket there, and by no port."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

_PROGRAMS = ("initdb", "pg_ctl", "postgres")
_NOBODY = "nobody"  # PostgreSQL refuses to run as root


def missing() -> str | None:
    """Why there can be no server here, or None if there can be one."""
    if find_spec("psycopg2") is None:
        return "psycopg2 is not installed"
    needed = (*_PROGRAMS, "setpriv") if os.geteuid() == 0 else _PROGRAMS
    return next((f"{name} is not on the PATH" for name in needed if shutil.which(name) is None), None)


@contextmanager
def server() -> Iterator[str]:
    """Yields the URL of an empty database. The path of a socket must be short, so the folder is not one of pytest's."""
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        data = Path(folder) / "data"
        if os.geteuid() == 0:
            os.chown(folder, pwd.getpwnam(_NOBODY).pw_uid, -1)
        _run("initdb", "-D", str(data), "-U", "me", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c shared_buffers=16MB"
        _run("pg_ctl", "-D", str(data), "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield f"postgresql+psycopg2://me@/postgres?host={folder}"
        finally:
            _run("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")


def _run(*command: str) -> None:
    as_nobody = ["setpriv", f"--reuid={_NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
    # the server keeps what it was given as output, so it must not be a pipe that somebody reads to its end
    subprocess.run([*as_nobody, *command], cwd="/", check=True, stdout=subprocess.DEVNULL, timeout=60)

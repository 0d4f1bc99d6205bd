"""Objects: the files in DVC's cache and in a remote, each named by the MD5 of its bytes. One that stands for a folder
ends in `.dir`, and lists the objects of its files. DVC has no public way to look at them: this module, and no other,
uses internals of the version that pyproject.toml pins.
"""

import hashlib
import json
import logging
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from dvc.config import NoRemoteError
from dvc.exceptions import DvcException
from dvc.fs.callbacks import TqdmCallback
from dvc.repo import Repo, lock_repo
from dvc_data.hashfile.db import HashFileDB, get_index
from dvc_objects.errors import ObjectDBError, ObjectFormatError
from dvc_objects.executors import ThreadPoolExecutor
from dvc_objects.fs.errors import RemoteMissingDepsError
from dvc_objects.fs.generic import copy
from dvc_objects.fs.local import localfs
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from tqdm import tqdm

from stages.lib.core.process import UserError, first_line

DAMAGED, MISSING = "damaged", "missing"
_SECRETS = {
    *("access_key_id", "secret_access_key", "session_token", "sse_customer_key"),  # S3
    *("password", "passphrase"),  # SSH, HTTP
    *("connection_string", "account_key", "sas_token", "client_secret"),  # Azure
}
_BLOCK = 1 << 20  # bytes that are hashed at once


class Out(NamedTuple):
    """What DVC knows of a path: an out of a stage, or what was added by `dvc add`. The default remote has what is
    `shared`; an out that is not even `cached` is in git."""

    path: str
    object: str
    cached: bool
    shared: bool


class Copies:
    """Files that should have the bytes of objects: `path` finds that of an object in a file system of DVC's.

    Attributes:
        name: what users are told.
    """

    def __init__(self, name: str, fs: Any, path: Callable[[str], str]) -> None:
        self.name, self.fs, self.path = name, fs, path

    def states(self, objects: Iterable[str], size: int | None = None) -> dict[str, str]:
        """DAMAGED or MISSING, of those objects that are not good. `size`: their bytes, for the progress bar."""
        objects = list(objects)
        bar = tqdm(total=size, desc=self.name, unit="B", unit_scale=True, disable=None)
        with bar, ThreadPoolExecutor(self.fs.jobs, cancel_on_error=True) as pool:
            found = list(pool.map(lambda name: self.state(name, bar.update), objects))
        return {name: state for name, state in zip(objects, found, strict=True) if state}

    def state(self, name: str, progress: Callable[[int], object] = lambda count: None) -> str | None:
        """DAMAGED, MISSING, or None of a good object. Reads all of it."""
        digest = hashlib.md5(usedforsecurity=False)
        try:
            with self.fs.open(self.path(name), "rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
                    progress(len(block))
        except FileNotFoundError:
            return MISSING
        return None if digest.hexdigest() == name.removesuffix(".dir") else DAMAGED


class Store(Copies):
    """The cache, or a remote."""

    def __init__(self, name: str, folder: str, database: HashFileDB) -> None:
        super().__init__(name, database.fs, database.oid_to_path)
        self._folder, self._database = folder, database

    def objects(self) -> set[str]:
        """All that it has, and half files of copies that were killed.

        Raises:
            UserError: it doesn't tell, as servers of HTTP don't.
        """
        try:
            return set(self._database.all())
        except NotImplementedError:
            raise UserError(f"{self.name}: what it has can't be listed") from None

    def sizes(self, objects: Iterable[str]) -> list[int]:
        """In bytes; those that are missing are left out."""
        found = self.fs.info([self.path(name) for name in objects], return_exceptions=True)
        return [info["size"] or 0 for info in found if not isinstance(info, Exception)]

    def lacking(self, objects: Iterable[str]) -> set[str]:
        """Those of the objects that it doesn't have."""
        objects = list(objects)
        exist = self.fs.exists([self.path(name) for name in objects])
        return {name for name, exists in zip(objects, exist, strict=True) if not exists}

    def files(self, folder: str) -> dict[str, str] | None:
        """The objects that the object of a folder lists, with their paths in the folder; None if it is not good."""
        try:
            with self.fs.open(self.path(folder), "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return None
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != folder.removesuffix(".dir"):
            return None
        return {entry["md5"]: entry["relpath"] for entry in json.loads(content)}

    def put(self, objects: Iterable[str], source: Copies) -> None:
        """Copies objects, those of folders last: DVC takes the files of a folder for present where its object is.

        Raises:
            UserError: not all could be copied.
        """
        for group in _by_kind(objects):
            self._copy(source.fs, {source.path(name): self.path(name) for name in group})
            for name in group:
                self._database.protect(self.path(name))

    def runs(self) -> set[str]:
        """Entries of the run cache, as paths in the store."""
        runs = self.fs.join(self._folder, "runs")
        return {self.fs.relpath(path, self._folder) for path in self.fs.find(runs)} if self.fs.exists(runs) else set()

    def restored_by(self, run: str) -> set[str]:
        """The objects of the outs that DVC takes from the cache instead of running the stage. A damaged entry is taken
        for one of an object that nobody has."""
        try:
            with self.fs.open(self.fs.join(self._folder, run), "rb") as file:
                return {out["md5"] for out in YAML(typ="safe", pure=True).load(file)["outs"]}
        except (YAMLError, UnicodeDecodeError, KeyError, TypeError):
            return {run}

    def put_runs(self, runs: Iterable[str], source: "Store") -> None:
        """
        Raises:
            UserError: not all could be copied.
        """
        self._copy(source.fs, {source.fs.join(source._folder, run): self.fs.join(self._folder, run) for run in runs})

    def remove_runs(self, runs: Iterable[str]) -> None:
        for run in runs:
            self.fs.rm_file(self.fs.join(self._folder, run))

    def _copy(self, fs: Any, paths: Mapping[str, str]) -> None:
        reasons: list[str] = []
        with TqdmCallback(desc=f"to {self.name}", unit="file", size=len(paths)) as bar:
            copy(
                fs,
                list(paths),
                self.fs,
                list(paths.values()),
                callback=bar,
                batch_size=self.fs.jobs,
                on_error=lambda old, new, error: reasons.append(_reason(error)),
            )
        if reasons:
            raise UserError(f"{self.name}: {_not_copied(reasons)}")

    def remove(self, objects: Iterable[str]) -> None:
        """Objects of folders go first, for the same reason."""
        for group in reversed(_by_kind(objects)):
            for name in group:
                self._database.delete(name)
        get_index(self._database).clear()  # DVC's notes on what a remote has


def _by_kind(objects: Iterable[str]) -> tuple[list[str], list[str]]:
    """Of files, and of folders."""
    objects = sorted(objects)
    return [name for name in objects if not is_folder(name)], [name for name in objects if is_folder(name)]


def _not_copied(reasons: Sequence[str]) -> str:
    first, *others = dict.fromkeys(reasons)
    return f"files not copied: {len(reasons)}: {first}{' (and other reasons)' if others else ''}"


def is_folder(name: str) -> bool:
    return name.endswith(".dir")


def is_whole(name: str) -> bool:
    """Whether it is the name of an object."""
    return re.fullmatch(r"[0-9a-f]{32}(\.dir)?", name) is not None


def workspace(paths: Mapping[str, str]) -> Copies:
    """Where objects are checked out, by these paths. None of it is the copy of a folder's object."""
    return Copies("the workspace", localfs, lambda name: os.devnull if is_folder(name) else paths[name])


def files_of(out: Out, stores: Iterable[Store]) -> dict[str, str]:
    """Object -> path, of the out and of its files, if it is a folder whose object one of the stores has intact."""
    if not is_folder(out.object):
        return {out.object: out.path}
    listed = next((files for store in stores if (files := store.files(out.object)) is not None), {})
    return {out.object: f"{out.path} (its list of files)"} | {
        name: str(Path(out.path, path)) for name, path in listed.items()
    }


class Project:
    """The DVC repository of the working folder."""

    def __init__(self, repo: Repo, errors: list[str]) -> None:
        self.repo, self._errors = repo, errors

    @cached_property
    def cache(self) -> Store:
        return Store("the cache", self.repo.cache.legacy.path, self.repo.cache.local)

    @property
    def has_remote(self) -> bool:
        return "remote" in self.repo.config["core"]

    @cached_property
    def remote(self) -> Store:
        """The default one.

        Raises:
            UserError: there is none, it can't be reached, or DVC would not verify what comes from it.
        """
        try:
            remote = self.repo.cloud.get_remote()
        except NoRemoteError:
            raise UserError(
                "no remote: `make remote URL=...` adds one: s3://bucket/folder, ssh://host/folder, gs://bucket/folder, "
                "azure://container/folder, or a folder"
            ) from None
        in_git = self.repo.config.load_one("repo")["remote"].get(remote.name, {})
        if secrets := [*(_SECRETS & in_git.keys()), *["password"] * bool(urlsplit(in_git.get("url", "")).password)]:
            raise UserError(
                f".dvc/config: {secrets[0]} of remote {remote.name} is secret, and git keeps this file: delete it "
                f"there, run `dvc remote modify --local {remote.name} {secrets[0]} ...`, and have it replaced"
            )
        database = self.repo.cloud.get_remote_odb()
        name = f"remote {remote.name} ({remote.fs.unstrip_protocol(remote.path)})"
        if not database.verify:
            raise UserError(
                f"{name}: DVC would take damaged files from it; run `dvc remote modify {remote.name} verify true`"
            )
        try:
            remote.fs.exists(database.path)
        except Exception as error:  # each kind of remote has errors of its own
            raise UserError(
                f"{name}: no access: {_reason(error).rstrip('.')}; look at the URL in .dvc/config, and at the "
                "credentials in .dvc/config.local or the environment"
            ) from None
        return Store(name, remote.path, database)

    @property
    def cache_folder(self) -> str | None:
        """Where the cache is, if not in this clone."""
        folder: str | None = self.repo.config["cache"].get("dir")
        return folder

    def outs(self, commits: Iterable[str] = ()) -> list[Out]:
        """Of the workspace and of these commits, each content once.

        Raises:
            UserError: dvc.yaml or dvc.lock of a commit can't be read.
        """
        found: dict[str, Out] = {}
        for revision in self.repo.brancher(revs=list(commits)):
            try:
                outs = [_out(self.repo, out) for out in self.repo.index.outs if out.hash_info]
            except DvcException as error:
                raise UserError(f"{revision or 'workspace'}: {_reason(error)}") from None
            for out in outs:
                known = found.get(out.object, out)
                found[out.object] = known._replace(cached=known.cached | out.cached, shared=known.shared | out.shared)
        return list(found.values())

    def locked(self) -> AbstractContextManager[None]:
        """No other command of DVC works in this clone meanwhile."""
        lock: AbstractContextManager[None] = lock_repo(self.repo)
        return lock

    def did(self, command: Callable[[], Any]) -> Any:
        """What a command of DVC returns.

        Raises:
            UserError: it has logged why it failed; DVC does not tell that otherwise.
        """
        self._errors.clear()
        try:
            result = command()
        except DvcException:
            if not self._errors:
                raise
        if self._errors:
            raise UserError(f"{self.remote.name}: {_not_copied(self._errors)}")
        return result


def _out(repo: Repo, out: Any) -> Out:
    # what is imported comes from its own repository; another out may have a remote of its own, or stay on its machine
    shared = out.use_cache and out.can_push and not out.remote and not out.stage.is_repo_import
    path = repo.fs.relpath(out.fs_path, repo.root_dir)
    return Out(path, out.hash_info.value, out.use_cache, shared)


@contextmanager
def opened_project() -> Iterator[Project]:
    """
    Raises:
        UserError: what DVC or a remote reports as an error.
    """
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    try:
        with Repo() as repo:
            yield Project(repo, errors.reasons)
    except (RemoteMissingDepsError, ImportError) as error:  # the package of a kind of remote, or one that it needs
        extras = ",".join(re.findall(r"dvc-(\w+)", str(error)))
        raise UserError(f"{first_line(error)}: run `make setup EXTRAS={extras}`") from None
    except DvcException as error:
        raise UserError(str(error)) from None
    except (ObjectDBError, ObjectFormatError, OSError) as error:
        raise UserError(_reason(error)) from None
    finally:
        logging.getLogger().removeHandler(errors)


class _Errors(logging.Handler):
    """Collects what DVC logs as an error. Without a handler, Python would print it with its traceback, and what the
    libraries of remotes log too."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.reasons: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("dvc"):
            error = record.exc_info[1] if record.exc_info else None
            self.reasons.append(_reason(error) if error else record.getMessage())


def _reason(error: BaseException) -> str:
    reason = getattr(error, "strerror", None) or first_line(error) or type(error).__name__  # type: ignore[arg-type]
    path = getattr(error, "filename", None)
    return f"{path}: {reason}" if path else str(reason)


def commits(*refs: str) -> list[str]:
    """The commits of all git refs with one of these beginnings, and of the older entries of stashes among them, such as
    queued experiments."""
    commit = "%(if)%(*objectname)%(then)%(*objectname)%(else)%(objectname)%(end)"  # the first if a tag has its own
    named = [line.split() for line in git("for-each-ref", f"--format=%(refname) {commit}", *refs)]
    stashed = [entry for name, _ in named if name.endswith("stash") for entry in git("reflog", "--format=%H", name)]
    return list(dict.fromkeys([*(commit for _, commit in named), *stashed]))


def git(*arguments: str) -> list[str]:
    """The lines that git prints."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {arguments[0]}: {(done.stderr.strip() or 'failed').splitlines()[0]}")
    return done.stdout.splitlines()

"""Sharing data and models by a remote: a folder, S3 and SSH, of real servers. What goes wrong is told in one line, and
the same command again completes the work.

By the project's own files for git and DVC, on a chain of two quick stages.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from types import ModuleType
from typing import NamedTuple

import pytest
from dvc.repo import Repo

from stages.lib.core.process import UserError
from stages.tools import gc, pull, share, verify
from tests import shell
from tests.servers import (
    S3,
    Key,
    Ssh,
    client,
    http_server,
    s3_missing,
    s3_server,
    ssh_missing,
    ssh_server,
)
from tests.shell import WITH_CODE

PROJECT = Path(__file__).parent.parent
SHIPPED = (".gitignore", ".gitattributes", ".dvcignore", ".dvc/config", ".dvc/.gitignore")
run = partial(shell.run, environment=WITH_CODE)
# of each seed, each file is an object of its own
STAGES = """
stages:
  make:
    cmd: echo made >> ../ran && mkdir -p data/made &&
      for i in $(seq ${files}); do seq ${seed}$i 90000 > data/made/$i.txt; done
    params:
      - files
      - seed
    outs:
      - data/made
  score:
    cmd: echo scored >> ../ran && mkdir -p metrics && wc -l < data/made/1.txt > metrics/lines.txt
    deps:
      - data/made
    outs:
      - metrics/lines.txt:
          cache: false
"""
FILES = 3

# DVC's own, of a library that it uses
pytestmark = [pytest.mark.pipeline, pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc.repo")]


Options = dict[str, str]  # of a DVC remote


class Remote(NamedTuple):
    """With the options of users; a folder has but one."""

    writer: Options
    reader: Options
    stranger: Options
    damage: Callable[[str], None]  # an object


def call(tool: ModuleType, folder: Path, *arguments: str) -> int:
    """Exit code of a tool in a folder, without the seconds in which a new process imports DVC."""
    with chdir(folder), pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", [tool.__name__, *arguments])
        try:
            tool.main()
        except SystemExit as end:
            return int(str(end.code))
    return 0


def error(tool: ModuleType, folder: Path, *arguments: str) -> str:
    """The one line that a user gets with exit code 2."""
    with pytest.raises(UserError) as raised:
        call(tool, folder, *arguments)
    (line,) = raised.value.lines
    return line


def connect(folder: Path, options: Options) -> None:
    lines = "".join(f"    {name} = {value}\n" for name, value in ({"verify": "true"} | options).items())
    (folder / ".dvc/config.local").write_text(f"[core]\n    remote = team\n['remote \"team\"']\n{lines}")


def clone(project: Path, name: str, options: Options) -> Path:
    run(project.parent, f"git clone -q {project} {name}")
    connect(project.parent / name, options)
    return project.parent / name


def repro(folder: Path, seed: int, files: int = FILES, **options: bool) -> list[str]:
    """The stages whose commands were run."""
    before = ran(folder)
    (folder / "params.yaml").write_text(f"files: {files}\nseed: {seed}\n")
    with chdir(folder), Repo() as repo:
        repo.reproduce(**options)
    return ran(folder)[len(before) :]


def ran(folder: Path) -> list[str]:
    log = folder.parent / "ran"
    return log.read_text().split() if log.exists() else []


def contents(folder: Path) -> dict[str, bytes]:
    files = [file for name in ("data", "metrics") for file in (folder / name).rglob("[!.]*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def object_in(store: Path, name: str) -> Path:
    return store / "files/md5" / name[:2] / name[2:]


def object_of(folder: Path, path: str) -> str:
    return hashlib.md5((folder / path).read_bytes()).hexdigest()


def damage(file: Path) -> None:
    """As a disk does: the size and the permissions stay."""
    content, mode = file.read_bytes(), file.stat().st_mode
    file.chmod(0o644)
    file.write_bytes(damaged(content))
    file.chmod(mode)


def damaged(content: bytes) -> bytes:
    return content[:-4] + b"rot\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """On `main`, with other runs on a branch and of an experiment, and one that was never committed."""
    folder = tmp_path_factory.mktemp("made") / "project"
    for name in SHIPPED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, folder / name)
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "params.yaml").write_text(f"files: {FILES}\nseed: 1\n")
    run(folder, "git init -q -b main")
    (folder / "data/raw/notes").mkdir(parents=True)
    (folder / "data/raw/notes/large.txt").write_text("large\n")
    with chdir(folder), Repo() as repo:
        repo.add("data/raw/notes/large.txt")
    for seed, ref in ((2, "refs/heads/other"), (3, "refs/exps/ab/cdef/tried"), (4, None), (1, "refs/heads/main")):
        assert repro(folder, seed) == ["made", "scored"]
        run(folder, "git add .")
        if ref:
            run(folder, "git commit -q -m run")
            run(folder, f"git update-ref {ref} HEAD")
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "project", symlinks=True)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    if reason := s3_missing():
        pytest.skip(reason)
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def ssh() -> Iterator[Ssh]:
    if reason := ssh_missing():
        pytest.skip(reason)
    with ssh_server() as server:
        yield server


@pytest.fixture(params=["folder", "s3", "ssh"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Remote:
    folder = tmp_path / "remote"
    if request.param == "s3":
        server: S3 = request.getfixturevalue("s3")
        own = folder.relative_to("/")
        keys = (server.writer, server.reader, Key("unknown", "secret"))
        writer, reader, stranger = (server.options(str(own), key) for key in keys)
        return Remote(writer, reader, stranger, lambda name: damage_in_bucket(server, own, name))
    if request.param == "ssh":
        sshd: Ssh = request.getfixturevalue("ssh")
        writer, reader, stranger = (sshd.options(folder, key) for key in (sshd.writer, sshd.reader, sshd.stranger))
    else:
        writer = reader = stranger = {"url": str(folder)}
    return Remote(writer, reader, stranger, lambda name: damage(object_in(folder, name)))


def damage_in_bucket(server: S3, folder: Path, name: str) -> None:
    bucket = client("s3", server.endpoint, server.writer)
    place = {"Bucket": server.bucket, "Key": str(object_in(folder, name))}
    bucket.put_object(Body=damaged(bucket.get_object(**place)["Body"].read()), **place)


def test_a_fresh_clone_takes_no_damaged_file_and_has_all_by_the_download_alone(
    project: Path, remote: Remote, capsys: pytest.CaptureFixture[str]
) -> None:
    connect(project, remote.writer)
    assert call(share, project) == 0
    remote.damage(object_of(project, "data/made/2.txt"))
    colleague = clone(project, "colleague", remote.writer)
    assert error(pull, colleague).startswith("data/made: damaged or missing in remote team")
    assert not (colleague / "data/made").exists()
    assert call(verify, project, "--repair") == 0
    assert "data/made/2.txt: damaged in remote team" in capsys.readouterr().out
    assert call(pull, colleague) == 0
    assert contents(colleague) == contents(project)
    assert repro(colleague, seed=1) == []
    assert run(colleague, "git status --porcelain") == ""
    assert counts(colleague / ".dvc/cache")[1] == 2  # of the branch too


def test_what_a_branch_has_made_is_fetched_by_its_settings(project: Path, tmp_path: Path) -> None:
    connect(project, {"url": str(tmp_path / "remote")})
    call(share, project)
    colleague = clone(project, "colleague", {"url": str(tmp_path / "remote")})
    call(pull, colleague)
    assert repro(colleague, seed=2, pull=True) == ["scored"]


def test_damage_in_the_cache_is_not_shared_and_repaired_from_the_remote(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    connect(project, {"url": str(tmp_path / "remote")})
    cached = object_in(project / ".dvc/cache", object_of(project, "data/made/2.txt"))
    good = cached.read_bytes()
    damage(cached)
    assert error(share, project) == "data/made: damaged in the cache: see `make verify`"
    cached.chmod(0o644)
    cached.write_bytes(good)
    assert call(share, project) == 0
    damage(cached)
    shutil.rmtree(project / "data/made")  # a good copy too
    assert call(verify, project) == 1
    assert "data/made/2.txt: damaged in the cache; remote team" in capsys.readouterr().out
    assert call(verify, project, "--repair") == 0
    assert cached.read_bytes() == good


def test_what_is_damaged_everywhere_is_made_again(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the workspace shares the file of the cache, and sees the damage of neither."""
    with (project / ".dvc/config").open("a") as config:
        config.write("[cache]\n    type = hardlink\n")
    connect(project, {"url": str(tmp_path / "remote")})
    before = contents(project)
    with chdir(project), Repo() as repo:
        repo.checkout(relink=True)
    call(share, project)
    name = object_of(project, "data/made/2.txt")
    damage(object_in(project / ".dvc/cache", name))
    assert contents(project) != before
    assert call(verify, project, "--repair") == 0
    assert contents(project) == before
    damage(object_in(project / ".dvc/cache", name))
    damage(object_in(tmp_path / "remote", name))
    assert call(verify, project, "--repair") == 1
    assert "data/made/2.txt: damaged in the cache; there is no good copy" in capsys.readouterr().out
    shutil.rmtree(project / "data/made")
    assert repro(project, seed=1) == ["made"]
    assert call(verify, project, "--repair") == 0
    assert contents(project) == before


def test_what_misses_in_a_shared_folder_is_found_and_uploaded(project: Path, tmp_path: Path) -> None:
    """DVC's own commands take it for present, as the list of the folder's files is."""
    connect(project, {"url": str(tmp_path / "remote")})
    call(share, project)
    missing = object_in(tmp_path / "remote", object_of(project, "data/made/2.txt"))
    missing.unlink()
    assert call(verify, project) == 1
    assert call(share, project) == 0
    assert missing.exists()
    assert call(verify, project, "--all") == 0


@pytest.mark.parametrize("remote", ["s3", "ssh"], indirect=True)
def test_who_may_only_read_or_nothing_is_told_in_one_line(project: Path, remote: Remote) -> None:
    connect(project, remote.writer)
    call(share, project)
    assert repro(project, seed=5) == ["made", "scored"]
    connect(project, remote.reader)
    assert re.match(r"remote team \(.*\): files not copied: 3: .*[Dd]enied", error(share, project))
    colleague = clone(project, "colleague", remote.reader)
    assert call(pull, colleague) == 0
    connect(colleague, remote.stranger)
    for tool in (pull, share):
        assert re.match(r"remote team \(.*\): no access: .*credentials", error(tool, colleague))


def test_http_can_be_read(project: Path, tmp_path: Path) -> None:
    connect(project, {"url": str(tmp_path / "remote")})
    call(share, project)
    with http_server(tmp_path / "remote") as url:
        colleague = clone(project, "colleague", {"url": url})
        assert call(pull, colleague) == 0
        assert contents(colleague) == contents(project)
        assert call(verify, colleague) == 0
        assert repro(colleague, seed=5) == ["made", "scored"]
        assert "files not copied: 3:" in error(share, colleague)


WRONG = {
    "": "no remote: `make remote URL=...`",
    "url = /nowhere": "remote team (/nowhere): DVC would take damaged files from it",
    "url = ssh://host/folder\n    password = 1234": ".dvc/config: password of remote team is secret",
    "url = ssh://me:1234@host/folder": ".dvc/config: password of remote team is secret",
    "url = ftp://host/folder": "config file error: Unsupported URL type ftp://",
    "url = gs://bucket/folder": "gs is supported, but requires 'dvc-gs' to be installed: run `make setup EXTRAS=gs`",
}


@pytest.mark.parametrize("written", WRONG)
def test_a_wrong_remote_is_told_in_one_line(project: Path, written: str) -> None:
    if "gs://" in written and find_spec("dvc_gs"):
        pytest.skip("dvc-gs is installed")
    if written:
        with (project / ".dvc/config").open("a") as config:
            config.write(f"    remote = team\n['remote \"team\"']\n    {written}\n")
    assert error(pull, project).startswith(WRONG[written])


def test_killed_half_way_and_repeated(project: Path, ssh: Ssh, tmp_path: Path) -> None:
    options = ssh.options(tmp_path / "remote", ssh.writer) | {"jobs": "1"}
    connect(project, options)
    repro(project, seed=1, files=30)
    run(project, "git commit -q -a -m more")
    kill(project, "share", until=tmp_path / "remote")
    assert not list((tmp_path / "remote").rglob("*.dir")), "killed too late to show anything"
    assert call(share, project) == 0
    colleague = clone(project, "colleague", options)
    kill(colleague, "pull", until=colleague / ".dvc/cache")
    assert not (colleague / "data/made").exists(), "killed too late to show anything"
    assert call(pull, colleague) == 0
    assert contents(colleague) == contents(project)
    assert call(verify, colleague) == 0


def kill(folder: Path, tool: str, until: Path) -> None:
    """As soon as the first object is there."""
    with started(folder, f"python -m stages.tools.{tool}") as process:
        wait_for(lambda: any(until.glob("files/md5/*/*")))
        process.kill()


@contextmanager
def started(folder: Path, command: str) -> Iterator[Popen[str]]:
    with Popen(command.split(), cwd=folder, env=WITH_CODE, stdout=PIPE, stderr=PIPE, text=True) as process:
        yield process


def wait_for(condition: Callable[[], bool]) -> None:
    latest = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < latest
        time.sleep(0.002)


def test_two_clones_share_at_once(project: Path, tmp_path: Path) -> None:
    options = {"url": str(tmp_path / "remote")}
    connect(project, options)
    other = shutil.copytree(project, tmp_path / "other", symlinks=True)
    repro(other, seed=5)
    run(other, "git commit -q -a -m run")
    with started(project, "python -m stages.tools.share") as one, started(other, "python -m stages.tools.share") as two:
        assert [one.wait(), two.wait()] == [0, 0]
    for made in (project, other):
        colleague = clone(made, f"colleague_of_{made.name}", options)
        assert call(pull, colleague) == 0
        assert contents(colleague) == contents(made)


def test_of_two_runs_in_one_clone_the_second_names_the_first(project: Path, tmp_path: Path) -> None:
    wait = "touch ../started && until test -e ../go; do sleep 0.05; done && echo held > data/held.txt"
    (project / "dvc.yaml").write_text(f"stages:\n  hold:\n    cmd: {wait}\n    outs:\n      - data/held.txt\n")
    with started(project, "dvc repro") as first:
        wait_for((tmp_path / "started").exists)
        second = subprocess.run(["dvc", "repro"], cwd=project, env=WITH_CODE, capture_output=True, text=True)
        (tmp_path / "go").touch()
        assert first.wait() == 0
    assert second.returncode
    assert "held.txt' is busy, it is being blocked by:" in second.stderr
    assert f"(PID {first.pid})" in second.stderr
    assert (project / "data/held.txt").read_text() == "held\n"


def test_a_full_disk_is_told_and_the_same_command_completes_the_work(project: Path, tmp_path: Path) -> None:
    options = {"url": str(tmp_path / "disk/remote")}
    connect(project, options)
    with small_disk(tmp_path / "disk") as enlarge:
        assert "No space left on device" in error(share, project)
        enlarge()
        assert call(share, project) == 0
        assert call(verify, project) == 0
        with small_disk(tmp_path / "colleague") as enlarge_clone:
            colleague = clone(project, "colleague", options)
            with (colleague / ".dvc/config.local").open("a") as config:
                config.write(f"[cache]\n    dir = {tmp_path / 'cache'}\n")
            assert "data/made, data/raw/notes/large.txt: can't be written here: is the disk full?" in error(
                pull, colleague
            )
            enlarge_clone()
            assert call(pull, colleague) == 0
            assert contents(colleague) == contents(project)
            assert run(colleague, "git status --porcelain") == ""
            assert repro(colleague, seed=1) == []


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], object]]:
    """Yields what makes it larger."""
    folder.mkdir()
    options = ("-t", "tmpfs", "-o", "size=1m", "tmpfs")
    if subprocess.run(["mount", *options, folder], stderr=DEVNULL).returncode:
        pytest.skip("this user can't mount a disk")
    try:
        yield lambda: run(folder, f"mount -o remount,size=20m {folder}")
    finally:
        run(folder.parent, f"umount {folder}")


def test_gc_deletes_what_no_git_ref_needs(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    connect(project, {"url": str(tmp_path / "remote")})
    before = counts(project / ".dvc/cache")
    assert call(verify, project, "--all", "--cache") == 0
    assert call(gc, project) == 0
    assert "the cache: nobody needs 4 files" in capsys.readouterr().out
    assert counts(project / ".dvc/cache") == before
    assert call(gc, project, "--delete") == 0
    assert counts(project / ".dvc/cache") == (before[0] - 4, before[1] - 1)
    for ref in ("other", "refs/exps/ab/cdef/tried", "main"):
        run(project, f"git checkout -q {ref}")
        with chdir(project), Repo() as repo:
            repo.checkout()


def test_gc_of_the_remote_keeps_what_others_have_in_git(project: Path, tmp_path: Path) -> None:
    options, store = {"url": str(tmp_path / "remote")}, tmp_path / "remote"
    connect(project, options)
    call(share, project)
    colleague = clone(project, "colleague", options)
    shared = counts(store)
    run(project, "git tag -a -m kept kept other")
    run(project, "git branch -q -D other")
    run(project, "git commit -q --allow-empty -m later")
    assert error(gc, colleague, "--remote", "--delete").startswith("origin has refs/heads/main, which is unknown here")
    run(colleague, "git fetch -q --prune")
    assert call(gc, colleague, "--remote", "--delete") == 0
    assert counts(store) == shared
    run(project, "git tag -d kept")
    run(colleague, "git tag -d kept")
    assert call(gc, colleague, "--remote", "--delete") == 0
    assert counts(store) == (shared[0] - 4, shared[1] - 1)
    assert call(pull, colleague) == 0


def counts(store: Path) -> tuple[int, int]:
    """Objects, and entries of the run cache."""
    return len(list(store.glob("files/md5/*/*"))), len(list(store.glob("runs/*/*/*")))


def test_make_notes_extras_and_adds_a_remote_that_verifies(project: Path, tmp_path: Path) -> None:
    shutil.copy(PROJECT / "Makefile", project)
    installed, pip, inputs = tmp_path / "installed", project / ".venv/bin/pip", ("pyproject.toml", "constraints.txt")
    for file in map(project.joinpath, inputs):
        file.touch()
    pip.parent.mkdir(parents=True)
    pip.write_text(f"#!/bin/sh\necho $* >> {installed}\n")
    pip.chmod(0o755)
    for command in ("make setup EXTRAS=s3,ssh", "make setup", "make setup EXTRAS=s3,ssh"):
        run(project, command)
    assert installed.read_text().split()[-2:] == ["-e", ".[s3,ssh]"]
    assert installed.read_text().count("\n") == 1
    (project / ".venv/ready").unlink()
    run(project, "make remote URL=s3://bucket/folder")
    assert installed.read_text().count(".[s3,ssh]\n") == 2
    with Repo(project) as repo:
        assert repo.config["core"]["remote"] == "team"
        assert repo.config["remote"]["team"].items() >= {"url": "s3://bucket/folder", "verify": True}.items()

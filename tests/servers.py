"""Servers for tests of remotes: of S3, of SSH, and of files by HTTP. They listen on the loopback interface alone, and
keep what they need in folders of their own."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, Popen
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, NamedTuple
from urllib.request import Request, urlopen

_HOST = "127.0.0.1"
_SECONDS = 30  # in which a server must answer
_REGION = "us-east-1"
_PRIVILEGE_SEPARATION = Path("/run/sshd")  # sshd, started as root, wants this folder


class Key(NamedTuple):
    name: str
    secret: str


class S3(NamedTuple):
    endpoint: str
    bucket: str
    writer: Key
    reader: Key

    def options(self, folder: str, key: Key) -> dict[str, str]:
        """Of a DVC remote."""
        secrets = {"access_key_id": key.name, "secret_access_key": key.secret}
        return {"url": f"s3://{self.bucket}/{folder}", "endpointurl": self.endpoint, **secrets}


def s3_missing() -> str | None:
    """Why there can be no S3 server here, or None if there can be one."""
    needed = ("moto", "flask", "flask_cors", "dvc_s3")
    return next((f"{name} is not installed" for name in needed if find_spec(name) is None), None)


@contextmanager
def s3_server() -> Iterator[S3]:
    """With an empty bucket."""
    port, bucket = _free_port(), "team"
    endpoint = f"http://{_HOST}:{port}"
    with _running([sys.executable, "-m", "moto.server", "-H", _HOST, "-p", str(port)], port):
        anyone = Key("any", "any")
        iam = client("iam", endpoint, anyone)
        writer, reader = _s3_user(iam, "writer", ["s3:*"]), _s3_user(iam, "reader", ["s3:Get*", "s3:List*"])
        client("s3", endpoint, anyone).create_bucket(Bucket=bucket)
        # from here on it checks keys
        urlopen(Request(f"{endpoint}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})).close()
        yield S3(endpoint, bucket, writer, reader)


def client(service: str, endpoint: str, key: Key) -> Any:
    import boto3

    return boto3.client(
        service, _REGION, endpoint_url=endpoint, aws_access_key_id=key.name, aws_secret_access_key=key.secret
    )


def _s3_user(iam: Any, name: str, actions: list[str]) -> Key:
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=policy)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return Key(key["AccessKeyId"], key["SecretAccessKey"])


class Ssh(NamedTuple):
    """Files of private keys. The server knows the first two, and lets the second one only read."""

    port: int
    writer: Path
    reader: Path
    stranger: Path

    def options(self, folder: Path, key: Path) -> dict[str, str]:
        """Of a DVC remote."""
        return {"url": f"ssh://{_HOST}:{self.port}{folder}", "keyfile": str(key), "allow_agent": "false"}


def ssh_missing() -> str | None:
    """Why there can be no OpenSSH server here, or None if there can be one."""
    if find_spec("dvc_ssh") is None:
        return "dvc_ssh is not installed"
    return next((f"{name} is not installed" for name in ("sshd", "ssh-keygen") if _program(name) is None), None)


@contextmanager
def ssh_server() -> Iterator[Ssh]:
    """Lets in the user of this process."""
    with TemporaryDirectory(prefix="sshd") as folder:
        server = Ssh(_free_port(), *(Path(folder, name) for name in Ssh._fields[1:]))
        host, known = Path(folder, "host"), Path(folder, "known")
        for key in (host, *server[1:]):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        writer, reader = (key.with_suffix(".pub").read_text() for key in (server.writer, server.reader))
        known.write_text(f'{writer}command="internal-sftp -R" {reader}')
        config = Path(folder, "config")
        config.write_text(
            f"ListenAddress {_HOST}\nPort {server.port}\nHostKey {host}\nAuthorizedKeysFile {known}\nPidFile none\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            "Subsystem sftp internal-sftp\n"
        )
        if os.geteuid() == 0:
            _PRIVILEGE_SEPARATION.mkdir(exist_ok=True)
        with _running([str(_program("sshd")), "-D", "-f", str(config)], server.port):
            yield server


def _program(name: str) -> str | None:
    """By its absolute path, on which sshd insists; also where a user's PATH does not lead."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


@contextmanager
def http_server(folder: Path) -> Iterator[str]:
    """Yields the URL. Its files can only be read."""
    server = ThreadingHTTPServer((_HOST, 0), partial(_Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{_HOST}:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((_HOST, 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    """From the moment when it listens on the port."""
    with Popen(command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL) as server:
        try:
            _wait(server, port)
            yield
        finally:
            server.terminate()


def _wait(server: Popen[bytes], port: int) -> None:
    latest = time.monotonic() + _SECONDS
    while server.poll() is None and time.monotonic() < latest:
        try:
            socket.create_connection((_HOST, port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{server.args!r} does not listen on port {port}")

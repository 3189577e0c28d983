"""A real OpenStack Swift with its S3 interface: one device, one replica, four servers and a memcached."""

import array
import gzip
import json
import os
import pwd
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.page import block
from tests.servers.process import free_ports, started, wait_for_port

BACKENDS = ("account", "container", "object")
SERVERS = ("proxy", *BACKENDS)
PROGRAMS = ("bash", "curl", "memcached", *(f"swift-{name}-server" for name in SERVERS))
REGION = "us-east-1"
PAGE = 20  # objects in one answer to a list request: tests need not put a thousand for a second page
PART_POWER = 3  # partitions of the ring, as a power of two

# Generous timeouts: no updater runs here, so an object would never be listed if its container did not answer in time.
EVERY_SERVER = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
log_level = WARNING
swift_dir = {directory}
devices = {directory}/devices
mount_check = false
disable_fallocate = true
conn_timeout = 10
node_timeout = 60
container_update_timeout = 60
"""

BACKEND = """
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""

PROXY = """
[pipeline:main]
pipeline = catch_errors gatekeeper cache listing_formats s3api tempauth copy dlo bulk slo versioned_writes proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
recoverable_node_timeout = 60
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
[filter:s3api]
use = egg:swift#s3api
location = {region}
max_bucket_listing = {page}
[filter:tempauth]
use = egg:swift#tempauth
user_lab_owner = {owner_secret} .admin
user_lab_reader = {reader_secret}
"""
PLAIN_FILTERS = ("catch_errors", "gatekeeper", "listing_formats", "copy", "dlo", "bulk", "slo", "versioned_writes")


@dataclass(frozen=True, kw_only=True)
class S3:
    """Where a Swift answers S3 requests, and who may ask."""

    endpoint: str
    region: str = REGION
    owner_key: str = "lab:owner"
    owner_secret: str = "owners-secret"
    reader_key: str = "lab:reader"
    reader_secret: str = "readers-secret"

    def environment(self, *, reader: bool = False) -> dict[str, str]:
        """Return the variables that an S3 client needs to come as the owner, or as the reader."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.reader_key if reader else self.owner_key,
            "AWS_SECRET_ACCESS_KEY": self.reader_secret if reader else self.owner_secret,
        }

    def create_bucket(self, name: str) -> None:
        """Make a bucket that only the owner can use."""
        credentials = {"X-Auth-User": self.owner_key, "X-Auth-Key": self.owner_secret}
        login = urllib.request.Request(f"{self.endpoint}/auth/v1.0", headers=credentials)
        with urllib.request.urlopen(login) as answer:
            account, token = answer.headers["X-Storage-Url"], answer.headers["X-Auth-Token"]
        bucket = urllib.request.Request(f"{account}/{name}", method="PUT", headers={"X-Auth-Token": token})
        urllib.request.urlopen(bucket).close()

    def share_bucket(self, name: str) -> None:
        """Let the reader read the bucket, with the commands of the how-to page; they make it where it is not there."""
        self.owner_shell(share_commands(name))

    def owner_shell(self, commands: str) -> None:
        """Run commands with the owner's keys in the environment."""
        shell = ["bash", "-euo", "pipefail", "-c", commands]
        done = subprocess.run(shell, env=os.environ | self.environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def share_commands(bucket: str) -> str:
    """Return the commands of the how-to page, for a bucket of this name."""
    return re.sub(r"\bbucket\b", bucket, block("bash", "X-Container-Read"))


def missing() -> str | None:
    """Return why Swift cannot run on this machine, or None where it can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"needs {', '.join(absent)}"
    with tempfile.NamedTemporaryFile() as file:
        try:
            os.setxattr(file.name, "user.actlas", b"")
        except OSError as error:
            return f"needs a temporary directory with extended attributes: {error}"
    return None


def user_name() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def write_ring(path: Path, port: int) -> None:
    """Write what swift-ring-builder would for one device and one replica: every partition is on device 0."""
    device = {"id": 0, "region": 1, "zone": 1, "weight": 1.0, "device": "disk", "meta": ""}
    device |= {"ip": "127.0.0.1", "port": port, "replication_ip": "127.0.0.1", "replication_port": port}
    ring = {"devs": [device], "part_shift": 32 - PART_POWER, "replica_count": 1, "byteorder": sys.byteorder}
    text = json.dumps(ring).encode()
    partitions = array.array("H", [0] * 2**PART_POWER).tobytes()
    with gzip.open(path, "wb") as stream:
        stream.write(struct.pack("!4sHI", b"R1NG", 1, len(text)) + text + partitions)


def write_configuration(directory: Path, ports: dict[str, int]) -> None:
    (directory / "devices" / "disk").mkdir(parents=True)
    (directory / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = tests\n", "utf-8")
    secrets = {"owner_secret": S3.owner_secret, "reader_secret": S3.reader_secret}
    proxy = PROXY.format(memcached=ports["memcached"], region=REGION, page=PAGE, **secrets)
    proxy += "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in PLAIN_FILTERS)
    for name in SERVERS:
        common = EVERY_SERVER.format(port=ports[name], user=user_name(), directory=directory)
        own = proxy if name == "proxy" else BACKEND.format(name=name)
        (directory / f"{name}.conf").write_text(common + own, "utf-8")
    for name in BACKENDS:
        write_ring(directory / f"{name}.ring.gz", ports[name])


def command(name: str, directory: Path, port: int) -> list[str]:
    if name == "memcached":
        return ["memcached", "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-m", "16", "-u", user_name()]
    return [f"swift-{name}-server", str(directory / f"{name}.conf"), "--verbose"]


@contextmanager
def swift_s3() -> Iterator[S3]:
    """Run an empty Swift; where it keeps things is gone afterwards."""
    names = ["memcached", *SERVERS]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    with tempfile.TemporaryDirectory(prefix="swift-") as temporary, ExitStack() as stack:
        directory = Path(temporary)
        write_configuration(directory, ports)
        logs = {name: directory / f"{name}.log" for name in names}
        processes = {
            name: stack.enter_context(started(command(name, directory, ports[name]), log=logs[name])) for name in names
        }
        for name in names:
            wait_for_port(ports[name], processes[name], log=logs[name])
        yield S3(endpoint=f"http://127.0.0.1:{ports['proxy']}")

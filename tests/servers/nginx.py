"""A real nginx that serves a directory as docs/how-to/share.md tells people to."""

import grp
import os
import pwd
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.page import block
from tests.servers.process import free_ports, started, wait_for_port

# What a distribution's nginx.conf has around the server: nothing outside the prefix is read or written.
AROUND = """
daemon off;
worker_processes 1;
error_log stderr;
pid nginx.pid;
{user}
events {{ worker_connections 256; }}
http {{
access_log off;
client_body_temp_path client_body;
proxy_temp_path proxy;
fastcgi_temp_path fastcgi;
uwsgi_temp_path uwsgi;
scgi_temp_path scgi;
{server}
}}
"""


def missing() -> str | None:
    """Return why nginx cannot run on this machine, or None where it can."""
    return None if shutil.which("nginx") else "needs nginx"


def page_configuration() -> str:
    """Return the server block of the how-to page."""
    return block("text", "server_name")


def placed(server: str, root: Path, port: int) -> str:
    """Return the server block with the port, host and root of this run, and otherwise as it stands."""
    values = {"listen": f"127.0.0.1:{port}", "server_name": "127.0.0.1", "root": f'"{root.absolute()}"'}
    for directive, value in values.items():
        line = re.compile(rf"^(\s*{directive}) [^;]+;", re.MULTILINE)
        assert len(line.findall(server)) == 1, f"one line must say {directive}:\n{server}"
        server = line.sub(lambda match, value=value: f"{match[1]} {value};", server)
    return server


def user_directive() -> str:
    """Return the directive that lets workers read what this process can; only root may and must give it."""
    if os.geteuid() != 0:
        return ""
    return f"user {pwd.getpwuid(os.geteuid()).pw_name} {grp.getgrgid(os.getegid()).gr_name};"


@contextmanager
def nginx(root: Path, config: str | None = None) -> Iterator[str]:
    """Serve `root` on a free port of 127.0.0.1 and yield the base URL.

    `config` is a server block; its listen, server_name and root are replaced. The how-to page's by default.
    """
    [port] = free_ports(1)
    server = placed(config or page_configuration(), root, port)
    with tempfile.TemporaryDirectory(prefix="nginx-") as temporary:
        prefix = Path(temporary)
        (prefix / "nginx.conf").write_text(AROUND.format(user=user_directive(), server=server), "utf-8")
        log = prefix / "error.log"
        command = ["nginx", "-e", "stderr", "-p", f"{prefix}/", "-c", "nginx.conf"]
        with started(command, log=log) as process:
            wait_for_port(port, process, log=log)
            yield f"http://127.0.0.1:{port}"

"""An ssh server on the loopback address, with keys of its own, for tests that carry a cache to another machine."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

SSHD = shutil.which(
    "sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
)
NEEDS = "needs sshd and ssh (OpenSSH)"
PRIVILEGE_SEPARATION = Path("/run/sshd")
"""Started by root, sshd wants this empty folder."""


def installed():
    """Whether OpenSSH's server and client are here."""
    return SSHD is not None and shutil.which("ssh") is not None


class Server:
    """A running server."""

    def __init__(self, folder, port):
        self.folder, self.port = folder, port

    @property
    def client(self):
        """The words that run a command there; nobody is asked anything."""
        return [
            *(
                "ssh",
                "-F",
                "none",
                "-p",
                str(self.port),
                "-i",
                str(self.folder / "client"),
                "-o",
                "BatchMode=yes",
            ),
            *("-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={self.folder / 'known_hosts'}"),
            *("-o", "StrictHostKeyChecking=yes", "-o", "LogLevel=ERROR", f"{getpass.getuser()}@127.0.0.1"),
        ]

    def log(self):
        """What the server said."""
        return (self.folder / "log").read_text()


def _generate_key(path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path.with_name(f"{path.name}.pub").read_text()


def _configure(folder, port):
    host = _generate_key(folder / "host")
    (folder / "authorized_keys").write_text(_generate_key(folder / "client"))
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host}")
    (folder / "config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder / 'host'}\nPidFile none\nStrictModes no\n"
        f"AuthorizedKeysFile {folder / 'authorized_keys'}\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
    )


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def running(folder):
    """Start a server with its files in a folder, and end it."""
    port = _free_port()
    _configure(folder, port)
    if os.geteuid() == 0:
        PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
    # `-D` keeps it in the foreground; sshd wants to be called by its full path.
    process = subprocess.Popen([SSHD, "-D", "-f", str(folder / "config"), "-E", str(folder / "log")])
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        yield Server(folder, port)
    finally:
        process.terminate()
        process.wait(30)

"""The ssh server in a guest: one user, its keys; sessions are those of a local machine's server."""

import asyncio
import gc
import signal
import socket
from typing import Any

import asyncssh

from providers.local import sshd


class GuestMachine(sshd.Machine):
    """What the server knows about its guest."""

    def __init__(self, order: dict[str, Any], path: str) -> None:
        self.user = order["user"]
        self.home = order["home"]
        self.keys = [asyncssh.import_public_key(line) for line in order["authorized_keys"]]
        self.shell = "/bin/sh"
        self.environment = {
            "HOME": self.home,
            "USER": self.user,
            "LOGNAME": self.user,
            "SHELL": self.shell,
            "PATH": f"{path}:{order['path']}",
            "LANG": "C.UTF-8",
            **order["env"],
        }
        self.sessions = set()


class GuestServer(asyncssh.SSHServer):
    """Lets the one user in, by any of its keys."""

    def __init__(self, machine: GuestMachine) -> None:
        self._machine = machine

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == self._machine.user and key in self._machine.keys

    def session_requested(self) -> sshd.Session:
        return sshd.Session(self._machine)


async def run(order: dict[str, Any], listening: socket.socket, *, path: str) -> None:
    """Serve until the guest is over. `path`: folder of programs that come first in PATH."""
    machine = GuestMachine(order, path)
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, machine.reap)
    if order["host_key"]:
        host_key = asyncssh.import_private_key(order["host_key"])
    else:
        host_key = asyncssh.generate_private_key("ssh-ed25519")
    listener = await asyncssh.listen(
        sock=listening,
        server_factory=lambda: GuestServer(machine),
        server_host_keys=[host_key],
        config=None,
        encoding=None,
        line_editor=False,
        allow_scp=False,
        x11_forwarding=False,
        agent_forwarding=False,
        password_auth=False,
        kbdint_auth=False,
        gss_kex=False,
        gss_auth=False,
        compression_algs=["none"],
        login_timeout=30,
        window=sshd.WINDOW_BYTES,
        max_pktsize=sshd.PACKET_BYTES,
    )
    gc.collect()
    gc.freeze()
    await listener.wait_closed()

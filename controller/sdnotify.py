"""Telling systemd how we are (sd_notify(3)), when it asked to be told."""

import os
import socket


def notify(*lines: str) -> None:
    """Send state lines such as READY=1. Without NOTIFY_SOCKET, or when nobody listens, nothing happens."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(address)
            sender.send("\n".join(lines).encode())
    except OSError:
        return


def watchdog_s() -> float | None:
    """Seconds within which systemd wants a sign of life, None when it wants none."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1_000_000

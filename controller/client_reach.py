"""Why no daemon answers at an address, in words that say what to do; and what is wrong with an address."""

import os
import re
import stat
from urllib.parse import SplitResult, urlsplit

SCHEMES = ("http://", "https://")
_HOST = re.compile(r"(localhost|[\w.-]+:\d+|\[[0-9a-fA-F:]+\](:\d+)?)")  # written where a path is meant
_NOT_YOURS = "{path} may not be used by you: be in its group, or see 'socket_mode' of the daemon"


def is_untrusted(said: str) -> bool:
    """Whether a connection failed because nobody we trust vouches for the other side."""
    return "certificate verify failed" in said.lower()


def not_reached(url: str, said: str) -> str:
    """Why a URL leads to no daemon.

    Args:
        said: what the attempt to connect failed with.
    """
    lower = said.lower()
    if is_untrusted(said):
        return f"the certificate of {url} is not trusted: name its authority with ca_file, --ca-file ({said})"
    if "[ssl" in lower or "tls" in lower:
        plain = url.replace("https://", "http://", 1)
        return f"what listens at {url} does not speak TLS as we do: without TLS it is {plain} ({said})"
    if any(
        word in lower for word in ("name or service not known", "nodename nor servname", "name resolution")
    ):
        return f"there is no host {urlsplit(url).hostname!r}: look at how {url} is written"
    return f"no daemon answers at {url}: is it running, and is 'listen' set in its config?"


def not_there(path: str) -> str:
    """Why a path leads to no daemon's socket."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if _HOST.fullmatch(path):
            return f"{path!r} is no socket: a URL begins with http:// or https://, as in http://{path}"
        return f"no daemon listens on {path}: start one with 'everpool serve'"
    except PermissionError:
        return _NOT_YOURS.format(path=path)
    except OSError as error:
        return f"{path} can't be used: {error.strerror}"
    if stat.S_ISDIR(mode):
        inside = os.path.join(path, "api.sock")
        hint = f"try {inside}" if os.path.exists(inside) else "name the socket in it, such as api.sock"
        return f"{path} is a directory, not a daemon's socket: {hint}"
    if not stat.S_ISSOCK(mode):
        return f"{path} is a file, not a daemon's socket: name api.sock in the daemon's state directory"
    if not os.access(path, os.W_OK):
        return _NOT_YOURS.format(path=path)
    return f"no daemon answers on {path}: it is gone; start it with 'everpool serve'"


def wrong_url(url: str) -> str:
    """What is wrong with a URL as it was typed, and what to write; empty when nothing is."""
    if not url.startswith(SCHEMES):
        if url.startswith(("/", "unix:", ".")):
            return f"{url!r} is a path, no URL: name a socket with --socket"
        begun, separator, rest = url.partition("://")
        if separator and begun:
            return (
                f"{url!r} begins with {begun}://: write http://{rest}, or https:// where the daemon has TLS"
            )
        return f"{url!r} has no scheme: write http://{url}, or https:// where the daemon has TLS"
    try:
        parts = urlsplit(url)
        port = _port(parts)
    except ValueError as error:
        return f"{url!r} is no URL: {error}"
    if parts.username is not None or parts.password is not None:
        return "with a name or a password is seen by everybody in `ps`: use --token-file instead of them"
    if not parts.hostname:
        return f"{url!r} names no host: write such as http://127.0.0.1:7070"
    if port == 0:
        return f"{url!r} has port 0: name the one that 'listen' in the daemon's config has"
    if parts.query or parts.fragment:
        return f"{url!r} has more than an address: write {parts.scheme}://{parts.netloc}"
    return ""


def _port(parts: SplitResult) -> int | None:
    """The port. Raises ValueError when it is none."""
    try:
        return parts.port
    except ValueError as error:
        raise ValueError("its port has to be a number, 1 to 65535") from error

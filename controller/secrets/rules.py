"""What may be kept: names of variables, limits, hostnames. Pure."""

import re
from collections.abc import Mapping, Sequence

from actors.spec import checked_name

GROUPS_MAX = 500
KEYS_MAX = 100  # of one group
KEY_CHARS_MAX = 128
VALUE_CHARS_MAX = 32_768
GROUP_BYTES_MAX = 64 * 1024  # keys and values of one revision
REVISIONS_MAX = 20  # of one group; older ones are forgotten
ALL_BYTES_MAX = 64 * 2**20  # ciphertext of all groups and revisions
CREDENTIALS_MAX = 500
PASSWORD_BYTES_MAX = 16 * 1024
USER_CHARS_MAX = 256
PATTERNS_MAX = 50

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[0-9]{1,5})?")
_DOCKER_HUB = frozenset(
    {"index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "hub.docker.com"}
)

# They change which program runs, or what it loads, or are said by everpool itself. A task that wants one
# sets it in its own env, where it can be seen.
RESERVED = frozenset(
    {
        "PATH", "ENV", "BASH_ENV", "BASHOPTS", "SHELLOPTS", "IFS", "PS4", "PROMPT_COMMAND", "CDPATH", "SHELL",
        "NODE_OPTIONS", "NODE_PATH", "PERL5OPT", "PERL5LIB", "PERLLIB", "PERL5DB", "RUBYOPT", "RUBYLIB",
        "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "GCONV_PATH", "GLIBC_TUNABLES", "LOCPATH",
        "NLSPATH", "HOSTALIASES", "RESOLV_HOST_CONF", "MALLOC_CHECK_",
    }
)  # fmt: skip
RESERVED_PREFIXES = ("EVERPOOL_", "LD_", "DYLD_", "PYTHON", "BASH_FUNC_")


def problems_of(values: Mapping[str, str]) -> list[str]:
    """What is wrong with the variables of a group, one line each; never with a value in it."""
    found: list[str] = []
    if len(values) > KEYS_MAX:
        found.append(f"{len(values)} variables: a group has {KEYS_MAX} at most")
    for key, value in list(values.items())[: KEYS_MAX + 1]:
        if len(key) > KEY_CHARS_MAX or not _KEY.fullmatch(key):
            found.append(
                f"{key[:KEY_CHARS_MAX]!r} is no name of a variable: letters, digits and '_', {KEY_CHARS_MAX}"
            )
        elif key in RESERVED or key.startswith(RESERVED_PREFIXES):
            found.append(
                f"{key} is reserved: it changes what runs, or is everpool's; a task's own env may set it"
            )
        elif "\0" in value:
            found.append(f"{key}: its value has a NUL byte")
        elif len(value) > VALUE_CHARS_MAX:
            found.append(f"{key}: its value has more than {VALUE_CHARS_MAX} characters")
        elif not _is_text(value):
            found.append(f"{key}: its value is not text")
    size = sum(len(text.encode("utf-8", "replace")) for pair in values.items() for text in pair)
    if size > GROUP_BYTES_MAX:
        found.append(f"{size} bytes: a group holds {GROUP_BYTES_MAX} at most")
    return found


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def checked_group(name: str) -> str:
    """A name of a group or credential. Raises ValueError."""
    return checked_name(name)


def checked_hostname(name: str) -> str:
    """A registry as it stands before the first slash of an image's name. Raises ValueError."""
    if name in _DOCKER_HUB:
        raise ValueError(f"{name!r} is called docker.io in names of images: say docker.io")
    if not _HOSTNAME.fullmatch(name):
        raise ValueError(
            f"{name[:100]!r} is no registry: give it as it stands before the first slash of an image's name, "
            "in small letters, such as ghcr.io or registry.example.org:5000"
        )
    return name


def checked_patterns(patterns: Sequence[str]) -> tuple[str, ...]:
    """Patterns of pools' names. Raises ValueError."""
    for pattern in patterns:
        if not re.fullmatch(r"[a-z0-9*?\[\]!-]{1,64}", pattern):
            raise ValueError(f"{pattern[:64]!r} is no pattern of pools: use a-z, 0-9, '-', '*' and '?'")
    return tuple(dict.fromkeys(patterns))

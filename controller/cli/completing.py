"""Names for Tab: pools, nodes, tasks, tokens and more from the daemon, profiles from their file.

Whatever goes wrong, nothing is said and nothing is completed: a prompt is no place for errors.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import typer

from actors.events import KINDS
from controller.cli.addressing import Where, environment, resolved
from controller.cli.codes import CliError
from controller.cli.profiles_file import read
from controller.client import Client, EverpoolError
from controller.telling import lasting

WITHIN_S = 1.0  # that a daemon has to answer
SHOWN_MAX = 200  # names; more are of no help
Shell = Literal["bash", "zsh", "fish"]
Names = Iterable[tuple[str, str]]  # and what is said of each, by shells that do

BASH = """\
_everpool_completion() {
    # What is typed up to the cursor; COMP_WORDS has a URL in pieces.
    local line="${COMP_LINE:0:COMP_POINT}" words at
    IFS=$' \\t\\n' read -ra words <<<"$line"
    at=${#words[@]}
    [[ $line == *[[:space:]] ]] || at=$((at - 1))
    local IFS=$'\\n'
    COMPREPLY=( $(COMP_WORDS="$line" COMP_CWORD=$at _EVERPOOL_COMPLETE=complete_bash "$1" 2>/dev/null) )
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == */ ]]; then compopt -o nospace 2>/dev/null; fi
    return 0
}
complete -o default -F _everpool_completion everpool
"""
ZSH = """\
#compdef everpool
_everpool_completion() {
    eval "$(_TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _EVERPOOL_COMPLETE=complete_zsh everpool 2>/dev/null)"
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _everpool_completion everpool
"""
FISH = """\
function __everpool_complete
    set -lx _EVERPOOL_COMPLETE complete_fish
    set -lx _TYPER_COMPLETE_FISH_ACTION get-args
    set -lx _TYPER_COMPLETE_ARGS (commandline -cp)
    set -l found (command everpool 2>/dev/null)
    if string length -q -- $found
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete --command everpool --no-files --arguments '(__everpool_complete)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def _asked(ctx: typer.Context) -> tuple[Where, Where, Where]:
    """What was typed so far of the daemon."""

    def said(params: dict[str, Any]) -> Where:
        paths = {
            key: Path(params[key]) if params.get(key) else None for key in ("socket", "token_file", "ca_file")
        }
        return Where(
            paths["socket"], params.get("url"), paths["token_file"], paths["ca_file"], params.get("profile")
        )

    return said(ctx.params), said(ctx.find_root().params), environment()


def _names(ctx: typer.Context, incomplete: str, asked: Callable[[Client], Names]) -> list[tuple[str, str]]:
    try:
        found = resolved(_asked(ctx))
        with Client(
            found.address, token=found.shown_token(), timeout_s=WITHIN_S, ca_file=found.ca_file
        ) as client:
            names = [(name, more) for name, more in asked(client) if name.startswith(incomplete)]
    except (CliError, EverpoolError, OSError, ValueError, LookupError, TypeError):
        return []
    return names[:SHOWN_MAX]


def pool_names(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Pools."""
    return _names(ctx, incomplete, _pools)


def _pools(client: Client) -> Names:
    return [(one["name"], f"{one['status']}, {one['ready']} of {one['desired']}") for one in client.pools()]


def task_ids(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """The newest tasks."""

    def asked(client: Client) -> Names:
        page = client.tasks(limit=SHOWN_MAX)
        return [(one["id"], f"{one['name']}, {one['status']}, {one['pool']}") for one in page.tasks]

    return _names(ctx, incomplete, asked)


def instance_ids(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Instances, of the pool that stands before them if one does."""

    def asked(client: Client) -> Names:
        pool = ctx.params.get("pool")
        return [(one["id"], f"{one['status']}, {one['market']}") for one in client.instances(pool)]

    return _names(ctx, incomplete, asked)


def targets(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Machines to get into: POOL/NODE once a pool is typed, else pools and instances."""

    def asked(client: Client) -> Names:
        pool, slash, _ = incomplete.partition("/")
        if slash:
            nodes = client.nodes(pool)
            return [(f"{pool}/{one['node']}", f"{one['status']}, {one['instance_id']}") for one in nodes]
        machines = [(one["id"], f"{one['status']}, {one['pool']}") for one in client.instances()]
        return [*((f"{name}/", more) for name, more in _pools(client)), *machines]

    return _names(ctx, incomplete, asked)


def node_numbers(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Nodes of the pool that stands before them."""

    def asked(client: Client) -> Names:
        nodes = client.nodes(ctx.params.get("pool"))
        return [(str(one["node"]), f"{one['status']}, {one['instance_id']}") for one in nodes]

    return _names(ctx, incomplete, asked)


def token_names(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Tokens."""

    def asked(client: Client) -> Names:
        now = time.time()
        return [(one["name"], f"{one['scope']}, {_until(one['expires_at'], now)}") for one in client.tokens()]

    return _names(ctx, incomplete, asked)


def _until(ends: float | None, now: float) -> str:
    if ends is None:
        return "never expires"
    return f"expires in {lasting(ends - now)}" if ends > now else "expired"


def group_names(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Groups of secrets."""
    return _names(
        ctx, incomplete, lambda client: [(one["group"], _keys(one["keys"])) for one in client.secret_groups()]
    )


def _keys(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) or "empty"


def credential_names(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Logins to registries."""
    return _names(
        ctx, incomplete, lambda client: [(one["name"], one["hostname"]) for one in client.credentials()]
    )


def webhook_names(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Webhooks of the config."""
    return _names(ctx, incomplete, lambda client: [(one["name"], one["url"]) for one in client.webhooks()])


def provider_names(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Providers of the daemon's config."""

    def asked(client: Client) -> Names:
        known = client.ready()["providers"]
        return [(name, one["error"] or f"{one['offers']} offers") for name, one in known.items()]

    return _names(ctx, incomplete, asked)


def event_kinds(incomplete: str) -> list[str]:
    """Kinds of events; they are the same for every daemon of this version."""
    return sorted(kind for kind in KINDS if kind.startswith(incomplete))


def profile_names(incomplete: str) -> list[tuple[str, str]]:
    """Profiles."""
    try:
        known = read()
    except CliError:
        return []
    return [
        (name, one.address) for name, one in sorted(known.profiles.items()) if name.startswith(incomplete)
    ]

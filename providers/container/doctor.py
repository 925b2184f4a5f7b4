"""What `everpool doctor` says of a container provider."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from providers.container.config import ContainerConfig
from providers.container.engine import Engine, found_socket, segment
from providers.container.images import registry_auth, registry_host
from providers.container.wire import GIB
from providers.errors import Fault, ProviderError
from providers.model import Check

FREE_BYTES_MIN = 2 * 2**30
_MENDS = {
    Fault.CREDENTIALS: "usermod -aG docker USER and log in again, or run as root",
    Fault.NOT_SENT: "systemctl enable --now docker.socket (or podman.socket), or give its path as `socket`",
    Fault.REJECTED: "see `engine` and `socket` in the config",
}


async def examined(engine: Engine, config: ContainerConfig) -> list[Check]:
    """The lines, in the order in which one would look; nothing is changed."""
    try:
        socket = found_socket(config.socket, config.engine)
    except ProviderError as error:
        return [Check(what="socket", ok=False, detail=error.detail, mend=_MENDS.get(error.fault, ""))]
    try:
        target = (await engine.target(""))[1]
        info = (await engine.call("look", "GET", "/info")).json()
    except ProviderError as error:
        mend = _MENDS.get(error.fault, "see the engine's own log")
        return [Check(what="engine", ok=False, detail=error.detail, mend=mend)]
    about = engine.about
    said = f"{engine.kind} {about.get('Version')} at {socket}, spoken to by API {target.lstrip('/v')}"
    lines = [Check(what="engine", ok=True, detail=said)]
    lines += _limits(info)
    lines += _sizes(info, config)
    lines += [await _image(engine, config)]
    lines += [_registry(config, index) for index in range(len(config.registries))]
    lines += await _named(engine, config)
    lines += _storage(info)
    return lines


def _limits(info: Mapping[str, Any]) -> list[Check]:
    missing = [
        word
        for name, word in (("MemoryLimit", "memory"), ("SwapLimit", "swap"), ("CpuCfsQuota", "cpu"))
        if info.get(name) is False
    ]
    warnings = "; ".join(str(one) for one in info.get("Warnings") or [])[:500]
    if missing:
        detail = f"the kernel gives no limits of {', '.join(missing)}" + (f": {warnings}" if warnings else "")
        mend = "enable the cgroup controllers (boot with cgroup_enable=memory swapaccount=1), or run rootful"
        return [Check(what="limits", ok=False, detail=detail, mend=mend)]
    return [Check(what="limits", ok=True, detail=warnings or "of memory, swap and cpu")]


def _sizes(info: Mapping[str, Any], config: ContainerConfig) -> list[Check]:
    cpus, memory = float(info.get("NCPU") or 0), float(info.get("MemTotal") or 0) / GIB
    lines = []
    for offer in config.offers:
        if cpus and offer.vcpus > cpus or memory and offer.memory_gb > memory:
            detail = (
                f"offer {offer.zone}/{offer.instance_type} has {offer.vcpus:g} cpus and "
                f"{offer.memory_gb:g} GB, the host {cpus:g} and {memory:.1f}"
            )
            lines.append(Check(what="offer", ok=False, detail=detail, mend="make it smaller in the config"))
    return lines


async def _image(engine: Engine, config: ContainerConfig) -> Check:
    try:
        answer = await engine.look(f"/images/{segment(config.image)}/json")
    except ProviderError as error:
        return Check(what="image", ok=False, detail=error.detail, mend="see the engine's own log")
    if answer.ok:
        detail = f"{config.image} is there; whether it has {config.python} is seen at the first launch"
        return Check(what="image", ok=True, detail=detail)
    if config.pull == "never":
        detail = f"{config.image} is not there, and is never pulled"
        return Check(what="image", ok=False, detail=detail, mend=f"{engine.kind} pull {config.image}")
    return Check(
        what="image", ok=True, detail=f"{config.image} is pulled from {registry_host(config.image)} at first"
    )


def _registry(config: ContainerConfig, index: int) -> Check:
    registry = config.registries[index]
    try:
        registry_auth(registry)
    except ProviderError as error:
        detail = f"{registry.server}: {error.detail}"
        return Check(what="registry", ok=False, detail=detail, mend="see `password` of the registry")
    return Check(what="registry", ok=True, detail=f"{registry.server} as {registry.username}")


async def _named(engine: Engine, config: ContainerConfig) -> list[Check]:
    """Networks and volumes that the config expects to be there."""
    wanted = [("volume", one.source) for one in config.volumes if one.scope == "engine" and one.source]
    wanted = [(kind, name) for kind, name in wanted if not name.startswith("/")]
    if config.network not in ("default", "none", "host", "cluster"):
        wanted.append(("network", config.network))
    lines = []
    for kind, name in wanted:
        try:
            there = (await engine.look(f"/{kind}s/{segment(name)}")).ok
        except ProviderError as error:
            lines.append(
                Check(what=kind, ok=False, detail=f"{name}: {error.detail}", mend="see the engine's own log")
            )
            continue
        mend = "" if there else f"{engine.kind} {kind} create {name}"
        lines.append(
            Check(what=kind, ok=there, detail=f"{name} is {'' if there else 'not '}there", mend=mend)
        )
    return lines


def _storage(info: Mapping[str, Any]) -> list[Check]:
    root = Path(str(info.get("DockerRootDir") or ""))
    try:
        free = shutil.disk_usage(root).free
    except OSError:  # the engine's own, or in a machine of its own
        return []
    detail = f"{free / GIB:.1f} GB free below {root}"
    if free < FREE_BYTES_MIN:
        return [
            Check(
                what="storage",
                ok=False,
                detail=detail,
                mend="remove images that are not needed (image prune)",
            )
        ]
    return [Check(what="storage", ok=True, detail=detail)]

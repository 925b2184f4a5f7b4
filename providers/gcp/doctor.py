"""What `everpool doctor` says about a project. Everything is read only."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio

from providers.errors import Fault, ProviderError
from providers.gcp import preemptions, wire
from providers.gcp.api import Api
from providers.gcp.config import GcpConfig
from providers.gcp.offers import Catalog
from providers.gcp.tokens import Tokens
from providers.model import Architecture, Check

# Each with what it is for.
PERMISSIONS = {
    "compute.instances.create": "launch machines",
    "compute.instances.delete": "end machines",
    "compute.instances.get": "look machines up",
    "compute.instances.list": "list machines",
    "compute.instances.setLabels": "mark machines",
    "compute.instances.setMetadata": "mark machines and give them keys",
    "compute.instances.setTags": "tie machines to their firewall rule",
    "compute.disks.create": "make boot disks",
    "compute.disks.delete": "remove disks",
    "compute.disks.list": "find disks that are left over",
    "compute.disks.get": "find disks that are left over",
    "compute.disks.setLabels": "mark disks",
    "compute.machineTypes.list": "know what can be rented",
    "compute.regions.list": "know what can be rented",
    "compute.regions.get": "read quotas",
    "compute.zoneOperations.get": "see launches fail",
    "compute.zoneOperations.list": "see what was launched, and preemptions",
    "compute.globalOperations.list": "see preemptions",
    "compute.subnetworks.use": "give machines an address",
}
EXTERNAL_IP = {"compute.subnetworks.useExternalIp": "give machines a public address"}
FIREWALL = {
    "compute.firewalls.create": "let ssh in",
    "compute.firewalls.delete": "remove firewall rules",
    "compute.firewalls.get": "let ssh in",
    "compute.firewalls.list": "find rules that are left over",
    "compute.globalOperations.get": "wait for firewall rules",
    "compute.networks.updatePolicy": "let ssh in",
}
ACT_AS = {"iam.serviceAccounts.actAs": "run machines as their service account"}
QUOTAS = ("INSTANCES", "CPUS", "PREEMPTIBLE_CPUS", "IN_USE_ADDRESSES", "SSD_TOTAL_GB")
MUST_HAVE = ("INSTANCES", "CPUS")
SKEW_MAX_S = 30.0
CHECK_WITHIN_S = 15.0


class Doctor:
    """The checks of one project."""

    def __init__(
        self, config: GcpConfig, api: Api, tokens: Tokens, catalog: Catalog, now: Callable[[], float]
    ) -> None:
        self._config, self._api, self._tokens = config, api, tokens
        self._catalog, self._now = catalog, now

    async def check(self) -> list[Check]:
        """See `Provider.check`."""
        try:
            await self._tokens.get()
        except ProviderError as error:
            mend = "give `key` a service account's key file, or run where application default credentials are"
            return [Check(what="credentials", ok=False, detail=error.detail, mend=mend)]
        lines: dict[int, list[Check]] = {}
        looks = (
            self._project,
            self._permissions,
            self._quotas,
            self._images,
            self._network,
            self._offers,
            self._preemptions,
        )

        async def look(index: int, what: Callable[[], Awaitable[list[Check]]], name: str) -> None:
            try:
                with anyio.fail_after(CHECK_WITHIN_S):
                    lines[index] = await what()
            except TimeoutError:
                lines[index] = [Check(what=name, ok=False, detail=f"no answer in {CHECK_WITHIN_S:g} s")]
            except ProviderError as error:
                lines[index] = [Check(what=name, ok=False, detail=error.detail, mend=_mend(error))]

        async with anyio.create_task_group() as looking:
            for index, what in enumerate(looks):
                looking.start_soon(look, index, what, what.__name__.strip("_"))
        got = [Check(what="credentials", ok=True, detail="an access token was given")]
        return got + [line for index in range(len(looks)) for line in lines[index]]

    async def _project(self) -> list[Check]:
        before = self._now()
        answer = await self._api.read("projects.get", self._api.project)
        project, at = answer.json(), answer.date()
        lines = [Check(what="project", ok=True, detail=f"{project.get('name')} can be read")]
        if at is not None:
            after = self._now()
            skew = max(before - (at + 1.0), at - after, 0.0)  # the vendor says whole seconds
            lines.append(
                Check(
                    what="clock",
                    ok=skew <= SKEW_MAX_S,
                    detail=f"{skew:.0f} s off the vendor's",
                    mend=""
                    if skew <= SKEW_MAX_S
                    else "set this computer's clock (chrony, systemd-timesyncd)",
                )
            )
        return lines

    async def _permissions(self) -> list[Check]:
        wanted = dict(PERMISSIONS)
        if self._config.external_ip:
            wanted |= EXTERNAL_IP
        if self._config.firewall:
            wanted |= FIREWALL
        if self._config.service_account is not None:
            wanted |= ACT_AS
        answer = await self._api.write(
            "projects.testIamPermissions",
            "POST",
            f"{self._api.project}:testIamPermissions",
            json={"permissions": list(wanted)},
            service="projects",
        )
        granted = set(answer.json().get("permissions") or ())
        lines = [
            Check(
                what=f"permission {permission}",
                ok=False,
                detail=f"is needed to {why}",
                mend=f"grant {permission} (it is in roles/compute.instanceAdmin.v1, for rules in "
                "roles/compute.securityAdmin) to the account",
            )
            for permission, why in wanted.items()
            if permission not in granted
        ]
        detail = f"{len(granted & set(wanted))} of {len(wanted)} that are needed"
        return lines or [Check(what="permissions", ok=True, detail=detail)]

    async def _quotas(self) -> list[Check]:
        zones = await self._catalog.zones()
        missing = sorted({*self._config.zones} - {*zones})
        gone = sorted({*self._config.regions} - {*zones.values()})
        lines = [
            Check(
                what="zones",
                ok=not missing and not gone,
                detail=f"there is no {', '.join((*missing, *gone))}" if missing or gone else ", ".join(zones),
                mend="correct zones and regions in the config" if missing or gone else "",
            )
        ]
        for region in sorted(set(zones.values())):
            answer = await self._api.read("regions.get", f"{self._api.project}/regions/{region}")
            lines.append(_quota(region, answer.json()))
        return lines

    async def _images(self) -> list[Check]:
        lines = []
        architectures: tuple[Architecture, ...] = ("x86_64", "arm64")
        for architecture in architectures:
            image = self._config.source_image.of(architecture)
            path = image if "/" in image else f"global/images/{image}"
            try:
                found = (await self._api.read("images.get", self._full(path))).json()
            except ProviderError as error:
                mend = f"set source_image.{architecture} to an image, or image family, that there is"
                lines.append(Check(what=f"image {architecture}", ok=False, detail=error.detail, mend=mend))
            else:
                lines.append(Check(what=f"image {architecture}", ok=True, detail=str(found.get("name"))))
        return lines

    async def _network(self) -> list[Check]:
        lines = []
        for what, path in (await self._networks()).items():
            try:
                await self._api.read(f"{what}s.get", self._full(path))
            except ProviderError as error:
                mend = f"set {what} to one that there is"
                lines.append(Check(what=what, ok=False, detail=error.detail, mend=mend))
            else:
                lines.append(Check(what=what, ok=True, detail=path))
        return lines

    def _full(self, url: str) -> str:
        """The path of something that is named by a URL, or by a part of one."""
        _, is_whole, path = url.partition("projects/")
        return f"/projects/{path}" if is_whole else f"{self._api.project}/{url}"

    async def _networks(self) -> dict[str, str]:
        found = {"network": wire.network(self._config)}
        if self._config.subnetwork is not None:
            for region in sorted(set((await self._catalog.zones()).values()))[:1]:
                found["subnetwork"] = wire.subnetwork(self._config, region)
        return found

    async def _offers(self) -> list[Check]:
        offers, unpriced = await self._catalog.offers(), self._catalog.unpriced
        detail = f"{len(offers)} offers"
        if unpriced:
            some = ", ".join(unpriced[:5]) + (" and others" if len(unpriced) > 5 else "")
            detail += f"; left out, since no price is known: {some}"
        mend = "" if offers else "set machine_types to types that the zones have, and prices for them"
        return [Check(what="offers", ok=bool(offers), detail=detail, mend=mend)]

    async def _preemptions(self) -> list[Check]:
        """By the call itself, since nobody is waiting for what it does not tell."""
        path = f"{self._api.project}/aggregated/operations"
        await self._api.read(preemptions.CALL, path, query={"maxResults": 1, **preemptions.query_of(None)})
        return [Check(what="preemptions", ok=True, detail="the project's operations can be read")]


def _quota(region: str, found: Mapping[str, Any]) -> Check:
    held = {quota.get("metric"): quota for quota in found.get("quotas") or ()}
    told, full = list[str](), list[str]()
    for metric in QUOTAS:
        if (quota := held.get(metric)) is not None:
            usage, limit = float(quota.get("usage", 0)), float(quota.get("limit", 0))
            told.append(f"{metric} {usage:g} of {limit:g}")
            if metric in MUST_HAVE and usage >= limit:
                full.append(metric)
    up = found.get("status") in (None, "UP")
    detail = ", ".join(told) or "no quota is told"
    mend = f"ask for more {', '.join(full)} in {region}" if full else ""
    return Check(
        what=f"quota {region}",
        ok=up and not full,
        detail=detail if up else f"the region is {found.get('status')}",
        mend=mend if up else "use other regions for now",
    )


def _mend(error: ProviderError) -> str:
    match error.fault:
        case Fault.CREDENTIALS:
            return "enable the API in the project, and grant the account what its message names"
        case Fault.FUNDS:
            return "enable billing for the project"
        case Fault.GONE | Fault.REJECTED:
            return "correct the name in the config"
        case _:
            return ""

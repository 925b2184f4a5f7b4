"""Which image a machine starts from, and what must be known of it."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import anyio

from providers.aws.clients import Clients
from providers.aws.config import AwsConfig
from providers.errors import Fault, ProviderError
from providers.model import Architecture

SSM = "ssm:"
KEEP_S = 3600.0


@dataclass(frozen=True, slots=True)
class Image:
    """An AMI: its disks are `devices`, the first of them the root's; `least_gb` is the root's own size."""

    id: str
    devices: tuple[str, ...]
    least_gb: int


class Images:
    """Images of all regions, kept for an hour."""

    def __init__(self, clients: Clients, config: AwsConfig) -> None:
        self._clients, self._config = clients, config
        self._known: dict[tuple[str, str], tuple[float, Image]] = {}
        self._looking = defaultdict[str, anyio.Lock](anyio.Lock)  # many that ask at once make one call

    async def image(self, region: str, wanted: str, architecture: Architecture) -> Image:
        """The image called `wanted` (ami-… or ssm:/…), or the config's for the architecture when that is "".

        Raises:
            ProviderError: rejected (there is none such), or what the lookup failed with.
        """
        name = wanted or self._config.ami.get(architecture, "")
        if not name.startswith((SSM, "ami-")):
            raise ProviderError(Fault.REJECTED, f"image {name!r} for {architecture}: give ami-… or ssm:/…")
        if (image := self._kept(region, name)) is not None:
            return image
        async with self._looking[region]:
            if (image := self._kept(region, name)) is None:
                image = await self._described(region, await self._resolved(region, name))
                self._known[region, name] = (anyio.current_time() + KEEP_S, image)
        return image

    def _kept(self, region: str, name: str) -> Image | None:
        until, image = self._known.get((region, name), (0.0, None))
        return image if until > anyio.current_time() else None

    async def _resolved(self, region: str, name: str) -> str:
        if not name.startswith(SSM):
            return name
        parameter = name.removeprefix(SSM)
        reply = await self._clients.call("ssm", region, "get_parameter", Name=parameter)
        return str(reply.data["Parameter"]["Value"])

    async def _described(self, region: str, ami: str) -> Image:
        reply = await self._clients.call("ec2", region, "describe_images", ImageIds=[ami])
        if not reply.data["Images"]:
            raise ProviderError(Fault.REJECTED, f"{region} has no image {ami}")
        image = reply.data["Images"][0]
        root = str(image.get("RootDeviceName") or "/dev/xvda")
        disks: dict[str, Any] = {
            str(one["DeviceName"]): one["Ebs"]
            for one in image.get("BlockDeviceMappings", ())
            if one.get("Ebs")
        }
        others = [device for device in disks if device != root]
        size = int(disks.get(root, {}).get("VolumeSize") or 1)
        return Image(ami, (root, *sorted(others)), size)

"""Who needs a secret, of all that lives in the pools' loops."""

from collections.abc import Callable, Mapping, Sequence

from actors.loop import Loop
from actors.task.state import Stopped
from controller.config import ProviderConfig
from providers.container.config import ContainerConfig
from providers.container.images import registry_host


class LoopUses:
    """Implements `store.Uses`. `providers`: what the config says of each, newest."""

    def __init__(
        self,
        loops: Callable[[], Mapping[str, Loop]],
        providers: Callable[[], Mapping[str, ProviderConfig]] = dict,
    ) -> None:
        self._loops = loops
        self._providers = providers

    def of_group(self, group: str) -> Sequence[str]:
        """Pools whose machines are set up with the group; tasks that may start, or start again, with it."""
        pools = [
            f"pool {name}: its image"
            for name, loop in self._loops().items()
            if loop.index.pool is not None and group in loop.index.pool.spec.image.env_groups
        ]
        return pools + [
            f"task {task.id} of pool {name}"
            for name, loop in self._loops().items()
            for task in loop.index.tasks.values()
            if task.spec.env_groups and group in task.spec.env_groups and not isinstance(task, Stopped)
        ]

    def of_registry(self, hostname: str) -> Sequence[str]:
        """Pools on containers whose image is from there."""
        found: list[str] = []
        for name, loop in self._loops().items():
            if loop.index.pool is None:
                continue
            spec = loop.index.pool.spec
            for provider in spec.provider:
                one = self._providers().get(provider)
                if one is None or not isinstance(one.settings, ContainerConfig):
                    continue
                image = spec.image.base or one.settings.image
                if registry_host(image) == hostname:
                    found.append(f"pool {name}: {image}")
                    break
        return found

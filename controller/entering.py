"""The door of a machine that has no ssh server: a container's is its engine."""

import os
from collections.abc import Mapping

from controller.config import ProviderConfig
from providers.container.config import ContainerConfig
from providers.container.engine import candidates
from providers.model import ContainerDoor, Machine


def with_door(machine: Machine, providers: Mapping[str, ProviderConfig]) -> Machine:
    """The same machine, with its door if it is a container."""
    config = providers.get(machine.handle.provider)
    if config is None or not isinstance(config.settings, ContainerConfig):
        return machine
    settings = config.settings
    sockets = [settings.socket] if settings.socket is not None else candidates(settings.engine, os.environ)
    socket = next((one for one in sockets if one.is_socket()), None)
    door = ContainerDoor(
        engine=settings.engine,
        socket="" if socket is None else str(socket),
        id=machine.handle.ref,
        python=settings.python,
    )
    return machine.model_copy(update={"container": door})

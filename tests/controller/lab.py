"""A type of provider for tests of what is built from a config: it says what it was asked."""

from collections.abc import Sequence
from pathlib import Path

from providers.errors import Fault, ProviderError
from providers.model import Check, Value
from providers.registry import Adapter
from providers.simulated.adapter import SimulatedProvider
from providers.simulated.config import SimulatedConfig

ADAPTER = Adapter("tests.controller.lab:LabConfig", "tests.controller.lab:Lab")
LACKING = Adapter("tests.controller.lab:LabConfig", "tests.controller.lacking:Lacking", extra="aws")


class LabConfig(Value):
    """What is wrong with it, if anything."""

    wrong: str = ""


class Lab(SimulatedProvider):
    """Looks at its own directory, and tells the owner it was asked for."""

    def __init__(self, name: str, config: LabConfig, directory: Path, agent_source: bytes) -> None:
        if config.wrong == "value":
            raise ValueError("no such place:\n nowhere")
        if config.wrong == "secret":
            raise ProviderError(Fault.CREDENTIALS, "/etc/key can't be read")
        if config.wrong == "file":
            (directory / "x" / "y").mkdir()
        super().__init__(name, SimulatedConfig())
        self.directory = directory

    async def check(self, owner: str) -> Sequence[Check]:
        """What `everpool doctor` says."""
        return (
            Check(what="owner", ok=True, detail=owner),
            Check(what="directory", ok=self.directory.name == self.name, detail=str(self.directory)),
            Check(what="quota", ok=False, detail="0 of 8 vCPUs", mend="raise it"),
        )

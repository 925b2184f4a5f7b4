"""The files in a machine's directory, as typed values.

order.json    what was ordered; there before anything runs
machine.json  the same and who the machine's parent is; written by the parent itself
port          where its ssh server listens
notice.json   that it will be taken; the agent watches it too
"""

import hashlib
import re
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from providers.errors import Fault, ProviderError
from providers.model import Address, Handle, Lifecycle, Notice, Sighting, SightingState

T = TypeVar("T", bound="_File")
_REF = re.compile(r"[0-9a-f]{16}")


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a later version may have written more


class Ordered(_File):
    """order.json"""

    key: str
    owner: str
    epoch: int
    instance_id: str
    ssh_user: str
    region: str
    zone: str
    instance_type: str
    lifecycle: Lifecycle
    micro_usd_per_hour: int
    launched_at: float
    launch_delay_s: float
    number: int  # 1 is the first this provider ever made
    host_public_key: str
    isolate: bool = True  # in namespaces of its own, if the system allows


class Record(Ordered):
    """machine.json"""

    pid: int
    start_time: int
    boot_id: str
    isolated: bool
    init: int  # the parent's pid as seen from inside
    watcher: int | None = None


class NoticeFile(_File):
    """notice.json. `kill_at`: when the provider makes it true, None when it does not."""

    reason: str
    deadline_at: float | None = None
    within_s: float | None = None  # as it was when the file was written
    kill_at: float | None = None

    def to_notice(self) -> Notice:
        """What is said to the outside."""
        return Notice(reason=self.reason, deadline_at=self.deadline_at)


class Ended(_File):
    """A tombstone: this key's machine is over, and never comes back."""

    key: str
    ended_at: float
    detail: str = ""


def ref_of(key: str) -> str:
    """The directory name, and so the handle, of the machine launched under `key`."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def is_ref(name: str) -> bool:
    """Whether `name` can be a ref."""
    return _REF.fullmatch(name) is not None


def checked_ref(ref: str) -> str:
    """Return `ref` when it can be one of ours, else raise ProviderError."""
    if not is_ref(ref):
        raise ProviderError(Fault.REJECTED, f"{ref!r} is no local machine")
    return ref


def read(kind: type[T], path: Path) -> T | None:
    """The file as a value; None when it is not there or not readable as one."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def sighting(
    provider: str, record: Ordered, state: SightingState, port: int | None, notice: Notice | None
) -> Sighting:
    """A machine as a listing shows it."""
    ref = ref_of(record.key)
    return Sighting(
        key=record.key,
        handle=Handle(provider=provider, ref=ref, region=record.region, zone=record.zone),
        state=state,
        address=None if port is None else Address(host="127.0.0.1", port=port),
        host_public_key=record.host_public_key,
        launched_at=record.launched_at,
        micro_usd_per_hour=record.micro_usd_per_hour,
        lifecycle=record.lifecycle,
        instance_type=record.instance_type,
        notice=notice,
        epoch=record.epoch,
    )

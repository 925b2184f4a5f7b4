"""What is wrong here, one line each: the machine, the state directory, the daemon's providers."""

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from controller.config import Config

DISK_FREE_MIN = 256 * 2**20


def _line(what: str, ok: bool, detail: str, mend: str = "") -> dict[str, Any]:
    return {"what": what, "ok": ok, "detail": detail, "mend": "" if ok else mend}


def diagnose_machine(state_dir: Path) -> list[dict[str, Any]]:
    """What can be said without a daemon."""
    version = platform.python_version()
    lines = [
        _line("python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer"),
        _line("system", sys.platform == "linux", sys.platform, "the daemon runs on Linux"),
    ]
    there = state_dir if state_dir.exists() else state_dir.parent
    if not there.exists():
        lines.append(_line("state directory", True, f"{state_dir} is not there yet: it will be made"))
        return lines
    free = shutil.disk_usage(there).free
    writable = os.access(there, os.W_OK)
    mend = f"give {there} to user {os.geteuid()}, or set state_dir"
    lines.append(_line("state directory", writable, str(state_dir), mend))
    detail = f"{free // 2**20} MiB free"
    lines.append(_line("disk", free >= DISK_FREE_MIN, detail, f"free space below {there}"))
    return lines


async def diagnose(config: Config, state_dir: Path, desk: Any) -> list[dict[str, Any]]:
    """All that a running daemon can say of itself and its providers."""
    lines = diagnose_machine(state_dir)
    health = desk.health()
    failing = health["journal"]["failing_since"] is not None
    lines.append(_line("journal", not failing, f"epoch {health['epoch']}", "see the log"))
    for name, shown in health["providers"].items():
        seen = shown["observed_at"] is not None
        detail = f"{shown['offers']} offers" if seen else "not observed yet"
        lines.append(
            _line(f"provider {name}", seen and not shown["error"], shown["error"] or detail, "see the log")
        )
        if seen and not shown["offers"]:
            lines.append(_line(f"offers of {name}", False, "none", f"look at [providers.{name}]"))
    lines.append(
        _line(
            "leadership",
            not health["observing_only"],
            "observing only" if health["observing_only"] else "leads",
            "run `everpool adopt` when no other daemon leads these machines",
        )
    )
    del config
    return lines

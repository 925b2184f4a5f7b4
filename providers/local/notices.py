"""Preemption as the config scripts it: a notice file at its time, its withdrawal, the kill.

Everything follows from when a machine was launched and what is in its notice file, so a daemon that
comes back goes on where the one before it was.
"""

import threading
from collections.abc import Callable

from providers.host.keys import write_private
from providers.local.config import LocalConfig, ScriptedNotice
from providers.local.wire import NoticeFile, Record
from providers.local.yard import Found, Yard

EVERY_S = 0.25
UNSAID_S = 30.0  # from a notice without a deadline to the kill


def applies(script: ScriptedNotice, record: Record) -> bool:
    """Whether the script is about this machine."""
    return (
        (script.zone is None or script.zone == record.zone)
        and (script.lifecycle is None or script.lifecycle == record.lifecycle)
        and (not script.machines or record.number in script.machines)
    )


def notice_of(script: ScriptedNotice, begun_at: float) -> NoticeFile:
    """What is written when the script's time has come."""
    lead_s = UNSAID_S if script.within_s is None else script.within_s
    return NoticeFile(
        reason=script.reason,
        deadline_at=None if script.within_s is None else begun_at + script.within_s,
        within_s=script.within_s,
        kill_at=begun_at + lead_s if script.kill else None,
    )


def write_notice(yard: Yard, ref: str, notice: NoticeFile) -> None:
    """Tell the machine, and whoever watches, that it will be taken."""
    write_private(yard.directory(ref) / "notice.json", notice.model_dump_json().encode())


def withdraw_notice(yard: Yard, ref: str) -> None:
    """Take a notice back. One that is not there is a success."""
    (yard.directory(ref) / "notice.json").unlink(missing_ok=True)


class Script:
    """Acts out notices and kills in a thread of its own, until `stop`."""

    def __init__(self, yard: Yard, config: LocalConfig, now: Callable[[], float]) -> None:
        self._yard = yard
        self._scripts = config.notices
        self._now = now
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def start(self) -> None:
        """Begin, unless that was done."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="local-notices", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(EVERY_S):
            for found in self._yard.scan():
                if found.alive is not None and not found.ending:
                    try:
                        self._act(found, found.alive)
                    except OSError:  # the machine's directory went away meanwhile, or the disk is full
                        continue

    def _act(self, found: Found, record: Record) -> None:
        now = self._now()
        notice = found.notice
        for script in self._scripts:
            if not applies(script, record):
                continue
            begun_at = record.launched_at + record.launch_delay_s + script.after_s
            over_at = None if script.withdraw_after_s is None else begun_at + script.withdraw_after_s
            scripted = notice_of(script, begun_at)
            if now < begun_at:
                continue
            if over_at is None or now < over_at:
                notice = notice or scripted
            elif notice == scripted:  # and not one that came from elsewhere
                notice = None
        if notice is not None and notice.kill_at is not None and notice.kill_at <= now:
            self._yard.kill(record)
        elif notice is None and found.notice is not None:
            withdraw_notice(self._yard, found.ref)
        elif notice is not None and found.notice is None:
            write_notice(self._yard, found.ref, notice)

"""The cloud in memory: what happens to its machines, and what goes wrong with it, by script or by seed.

What goes wrong on purpose is told to the spectator. All of it can be asked of a machine that has ended:
then nothing happens.
"""

from collections.abc import Callable
from functools import partial

from providers.model import Notice
from providers.simulated.channel import SimulatedChannel
from providers.simulated.config import Incident, SimulatedConfig
from providers.simulated.estate import FOR_EVER, Estate
from providers.simulated.machine import Machine
from providers.simulated.markets import Place, place_of
from providers.simulated.spectator import Spectator

__all__ = ["Cloud", "Machine"]

HUNG_UP_AFTER_S = 30.0  # of silence, as the keepalives of ssh do
STALLED_S = 20.0  # at most, before a stream breaks in the middle of a line
DYING_WITHIN_S = 60.0  # an agent that dies in the middle of its work, when there is none
MISDIRECTED_IN_S = 120.0


class Cloud(Estate):
    """One account, with prices, capacity, preemptions and faults.

    Args:
        name: what the config calls the provider.
        config: what it sells and how it behaves.
        clock: the vendor's UTC seconds; never goes back.
        spectator: who watches what really happens.
    """

    def __init__(
        self,
        name: str,
        config: SimulatedConfig,
        clock: Callable[[], float],
        spectator: Spectator | None = None,
    ) -> None:
        super().__init__(name, config, clock, spectator)
        self.on_notice: list[Callable[[str, Notice | None], None]] = []  # who is pushed notices
        self.locked_until = 0.0
        self.throttled_until = 0.0
        self._has_begun = False

    async def run(self) -> None:
        """Make time pass. Exactly one task must do this."""
        self.begin()
        await self.timeline.run()

    def begin(self) -> None:
        """Plan what is known to come: incidents, and capacity that changes."""
        if self._has_begun:
            return
        self._has_begun = True
        began = self.timeline.now() - self.age_s
        for incident in self.config.incidents:
            self.timeline.at(began + incident.at_s, partial(self._carry_out, incident))
        for place in self._markets.changing():
            self._plan_capacity(place)

    def _happened(self, text: str) -> None:
        if self.spectator is not None:
            self.spectator.happened(f"{self.name}: {text}")

    # --- preemption and notices -------------------------------------------------------------------

    def _was_made(self, machine: Machine) -> None:
        if machine.offer.lifecycle != "spot":
            return
        wait = self.luck.wait_s(self._markets.hazard_per_hour(machine.offer))
        if wait is not None:
            self.timeline.after(wait, partial(self._want_back, machine, machine.began_at, self._lead_s()))

    def _want_back(self, machine: Machine, began_at: float, lead_s: float | None) -> None:
        if not self.luck.calm and machine.began_at == began_at:  # else it was stopped since
            self.luck.happened["preemptions"] += machine.ended_at is None
            self.preempt(machine, lead_s)

    def _lead_s(self) -> float | None:
        """How long before a preemption its notice comes; None: without a word."""
        config = self.config
        if config.notice_s is None or (config.notice_share < 1 and self.luck.random() >= config.notice_share):
            return None
        return config.notice_s

    def preempt(self, machine: Machine, within_s: float | None, *, kill: bool = True) -> None:
        """Take a machine back: after a notice of so many seconds, or (None) without a word."""
        if not _costs(machine) or machine.is_leaving:
            return
        if within_s is None:
            self.end(machine, "preempted")
            return
        if machine.notice is not None:
            return
        machine.is_leaving = kill
        notice = Notice(reason="spot", deadline_at=self.timeline.now() + within_s)
        self._announce(machine, notice)
        if kill:
            self.timeline.after(within_s, lambda: self._take(machine, notice))

    def withdraw(self, machine: Machine) -> None:
        """Take a notice back; the machine stays."""
        if machine.notice is not None:
            machine.is_leaving = False
            self._announce(machine, None)

    def _take(self, machine: Machine, notice: Notice) -> None:
        if machine.notice is notice:  # else it was withdrawn
            self.end(machine, "preempted")

    def _announce(self, machine: Machine, notice: Notice | None) -> None:
        machine.notice, machine.shown = notice, None
        self._tell_host(machine)
        key = machine.key
        if self.luck.misdirects() and self.living:
            key = self.luck.pick(list(self.living.values()), 1)[0].key
            self._happened(f"the notice for {machine.key} names {key}")
        self._push(key, notice)
        again_s = self.luck.push_again_s()
        if again_s is not None:
            self.timeline.after(again_s, lambda: self._push_now(key, notice))

    def _push(self, key: str, notice: Notice | None) -> None:
        delay_s = self.luck.delay_s(self.config.notice_push_delay)
        if delay_s > 0:
            self.timeline.after(delay_s, lambda: self._push_now(key, notice))
        else:
            self._push_now(key, notice)

    def _push_now(self, key: str, notice: Notice | None) -> None:
        for push in list(self.on_notice):
            push(key, notice)

    def _tell_host(self, machine: Machine) -> None:
        if machine.host is None:
            return
        notice = machine.notice
        if notice is None or notice.deadline_at is None:
            machine.host.noticed(notice.reason if notice else None, None)
        else:
            machine.host.noticed(notice.reason, round(notice.deadline_at - self.timeline.now(), 3))

    def _boot(self, machine: Machine) -> None:
        super()._boot(machine)
        if machine.notice is not None:
            self._tell_host(machine)

    def repeat_notice(self, machine: Machine) -> None:
        """Push a machine's notice again."""
        if machine.notice is not None:
            self._happened(f"notice again for {machine.key}")
            self._push_now(machine.key, machine.notice)

    def misdirect_notice(self, machine: Machine) -> None:
        """Push a notice for a machine that is not meant: neither listing nor machine know of it."""
        if machine.ended_at is None:
            self._happened(f"notice for {machine.key}, which is not meant")
            deadline = self.timeline.now() + (self.config.notice_s or MISDIRECTED_IN_S)
            self._push_now(machine.key, Notice(reason="spot", deadline_at=deadline))

    # --- capacity ---------------------------------------------------------------------------------

    def _plan_capacity(self, place: Place) -> None:
        age_s = self.age_s
        next_s = self._markets.next_capacity_s(place, age_s)
        if next_s is not None:
            at = self.timeline.now() - age_s + next_s
            self.timeline.at(at, partial(self._change_capacity, place))

    def _change_capacity(self, place: Place) -> None:
        """Take back what runs there beyond what there is now."""
        capacity = self._markets.capacity(place, self.age_s)
        self._plan_capacity(place)
        if capacity is None or place[2] != "spot" or self._used.get(place, 0) <= capacity:
            return
        there = [one for one in self.living.values() if _costs(one) and place_of(one.offer) == place]
        staying = [one for one in there if not one.is_leaving]
        for machine in self.luck.pick(staying, max(0, len(staying) - capacity)):
            if machine.notice is not None:  # an empty threat until now
                self.withdraw(machine)
            self.preempt(machine, self._lead_s())

    # --- what goes wrong with machines ------------------------------------------------------------

    def silence(self, machine: Machine, seconds: float) -> None:
        """Nobody can talk to a machine for a while; what runs on it goes on."""
        if machine.ended_at is None:
            self._happened(f"silence of {machine.key} for {seconds:g} s")
            self._silence(machine, seconds)

    def isolate(self, machine: Machine) -> None:
        """Nobody can ever talk to a machine again; it runs and is listed."""
        if machine.ended_at is None:
            self._happened(f"{machine.key} can't be reached any more")
            self._silence(machine, FOR_EVER)

    def _silence(self, machine: Machine, seconds: float) -> None:
        until = self.timeline.now() + seconds
        machine.silent_until = max(machine.silent_until, until)
        channel = machine.host.channel if machine.host is not None else None
        if channel is not None:
            channel.wire.stall()
            self.timeline.after(min(seconds, HUNG_UP_AFTER_S), partial(self._unsilence, machine, channel))

    def _unsilence(self, machine: Machine, channel: SimulatedChannel) -> None:
        """A short silence is only a delay; a long one ends the stream."""
        if machine.silent_until <= self.timeline.now():
            channel.wire.release()
        else:
            channel.close()

    def unlist(self, machine: Machine, seconds: float) -> None:
        """Listings and `find` lack a machine for a while; it lives and can be talked to."""
        if machine.ended_at is None:
            self._happened(f"{machine.key} is not listed for {seconds:g} s")
            machine.unlisted_until = max(machine.unlisted_until, self.timeline.now() + seconds)

    def stop(self, machine: Machine, resume_after_s: float | None) -> None:
        """A machine is outbid: it stops, costs nothing, and perhaps runs again; None: never.

        Its processes die, its disk stays. When it runs again nothing of ours does, until somebody attaches.
        """
        if machine.state != "running" or machine.ended_at is not None:
            return
        self._happened(f"{machine.key} is outbid")
        if resume_after_s is None and not self.config.lists_stopped:
            self.end(machine, "stopped")
            return
        machine.state, machine.notice, machine.is_leaving, machine.shown = "stopped", None, False, None
        if machine.host is not None:
            machine.host.stop()
        machine.disk, machine.host = machine.host, None
        self._stop_billing(machine, "stopped")
        self._free_address(machine)
        if resume_after_s is not None:
            self.timeline.after(resume_after_s, lambda: self._resume(machine))

    def _resume(self, machine: Machine) -> None:
        if machine.state != "stopped" or machine.ended_at is not None:
            return
        now = self.timeline.now()
        self._happened(f"{machine.key} runs again")
        machine.billed = machine.billed_micro_usd(now)
        machine.began_at, machine.stopped_at = now, None
        self._count(machine, 1)
        machine.state, machine.shown = "running", None
        self._give_address(machine)
        machine.host, machine.disk = machine.disk, None
        if machine.host is not None:
            machine.host.boot()
        if self.spectator is not None:
            self.spectator.machine_resumed(self.name, machine.key, machine.ref)
        self._was_made(machine)

    def kill_agent(self, machine: Machine) -> None:
        """A machine's agent dies, in half of the cases in the middle of its work; what it ran lives on."""
        host = machine.host
        if host is None or not host.lives:
            return
        self._happened(f"the agent of {machine.key} dies")
        actions = 0 if self.luck.random() < 0.5 else 1 + int(self.luck.random() * 8)
        host.agent_dies(actions)
        if host.is_dying:
            self.timeline.after(DYING_WITHIN_S, lambda: host.agent_dies() if host.is_dying else None)

    # --- what goes wrong with the account ---------------------------------------------------------

    def darken(self, zone: str, seconds: float) -> None:
        """Nothing of a zone can be asked, had or talked to for a while; its machines run on."""
        self._happened(f"zone {zone} is dark for {seconds:g} s")
        self._dark[zone] = max(self._dark.get(zone, 0.0), self.timeline.now() + seconds)
        for machine in list(self.living.values()):
            if machine.offer.zone == zone:
                self._silence(machine, seconds)

    def lock_out(self, seconds: float) -> None:
        """Every call answers that the credentials are wrong."""
        self._happened(f"credentials are refused for {seconds:g} s")
        self.locked_until = max(self.locked_until, self.timeline.now() + seconds)

    def throttle(self, seconds: float) -> None:
        """Every call answers that there were too many."""
        self._happened(f"calls are throttled for {seconds:g} s")
        self.throttled_until = max(self.throttled_until, self.timeline.now() + seconds)

    def cut_streams(self, share: float) -> None:
        """Break a share of the open agent streams in the middle of a line."""
        talking = [
            one for one in self.living.values() if one.host is not None and one.host.channel is not None
        ]
        chosen = self.luck.pick(talking, round(share * len(talking)))
        self._happened(f"{len(chosen)} of {len(talking)} streams are cut")
        for machine in chosen:
            self.cut_stream(machine)

    def cut_stream(self, machine: Machine) -> None:
        """Stall a machine's stream; then a part of what is on the wire arrives, and it breaks."""
        if machine.host is not None and machine.host.channel is not None:
            self._tear(machine.host.channel)

    def break_stream(self, channel: SimulatedChannel) -> None:
        """A stream breaks: between two lines, or in the middle of one."""
        self.luck.happened["cuts_per_hour"] += 1
        if self.luck.random() < 0.5:
            channel.close()
        else:
            self._tear(channel)

    def _tear(self, channel: SimulatedChannel) -> None:
        channel.wire.stall()
        draw = self.luck.random()
        self.timeline.after(round(STALLED_S * self.luck.random(), 3), lambda: channel.wire.tear(draw))

    # --- the script -------------------------------------------------------------------------------

    def _carry_out(self, incident: Incident) -> None:
        zones = sorted({offer.zone for offer in self.config.offers})
        match incident.what:
            case "dark":
                for zone in zones if incident.zone is None else (incident.zone,):
                    self.darken(zone, incident.for_s)
            case "credentials":
                self.lock_out(incident.for_s)
            case "throttle":
                self.throttle(incident.for_s)
            case _:
                there = [
                    one
                    for one in self.living.values()
                    if incident.zone in (None, one.offer.zone) and _can_befall(one, incident)
                ]
                count = round(incident.share * len(there)) if incident.count is None else incident.count
                for machine in self.luck.pick(there, count):
                    self._befall(machine, incident)

    def _befall(self, machine: Machine, incident: Incident) -> None:
        match incident.what:
            case "preempt":
                self._happened(f"{machine.key} is taken back")
                self.preempt(machine, self._lead_s())
            case "false_notice":
                self._happened(f"an empty notice for {machine.key}")
                self.preempt(machine, self.config.notice_s or MISDIRECTED_IN_S, kill=False)
                self.timeline.after(incident.for_s, lambda: self.withdraw(machine))
            case "silence":
                self.silence(machine, incident.for_s)
            case "isolate":
                self.isolate(machine)
            case "unlist":
                self.unlist(machine, incident.for_s)
            case "stop":
                self.stop(machine, incident.for_s or None)
            case "kill_agent":
                self.kill_agent(machine)
            case "cut":
                self.cut_stream(machine)
            case "repeat_notice":
                self.repeat_notice(machine)
            case "misdirect_notice":
                self.misdirect_notice(machine)
            case "dark" | "credentials" | "throttle":
                return  # these befall the account


def _costs(machine: Machine) -> bool:
    """Whether it is there and not stopped."""
    return machine.stopped_at is None and machine.ended_at is None


def _can_befall(machine: Machine, incident: Incident) -> bool:
    if incident.what == "preempt":
        return _costs(machine) and not machine.is_leaving
    if incident.what == "repeat_notice":
        return machine.notice is not None
    return _costs(machine)

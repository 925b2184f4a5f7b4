"""What goes wrong in a world: with machines, with whole clouds, and with the daemon and its computer."""

import random
from collections.abc import Callable, Mapping

from controller.simulation.house import OWNER
from controller.simulation.ledger import Fate, Ledger
from providers.simulated.cloud import Cloud, Machine
from tests.simulation.lives import AIMS, End, Lives
from tests.simulation.plan import Act
from tests.simulation.referee import Referee

CRASHING_CALLS = (("launch",), ("launch",), ("terminate",), ("find", "open_cluster", "close_cluster"), ())
CLOCK_WRONG_S = 6 * 3600.0
DIES_WITHIN_S = 60.0  # of a full disk


class Nature:
    """All misfortunes of one world.

    Args:
        clouds: what there is to go wrong.
        lives: the daemon.
        ledger: its disk.
        referee: is told which machines are not ours.
    """

    def __init__(self, clouds: Mapping[str, Cloud], lives: Lives, ledger: Ledger, referee: Referee) -> None:
        self.troubled: dict[str, float] = {}  # clouds that do not work as a whole, and until when
        self.was_full = False  # at some time since somebody last looked
        self.done: dict[str, Callable[[Act, random.Random], None]] = {
            "crash": self._crash,
            "crash_commit": self._crash_commit,
            "crash_call": self._crash_call,
            "crash_late": self._crash_late,
            "full_disk": self._full_disk,
            "usurp": self._usurp,
            "upgrade": self._upgrade,
            "clock_jump": self._clock_jump,
            "set_clock": self._set_clock,
            "stranger": self._stranger,
            "storm": self._storm,
            "taken": self._taken,
            "false_notice": self._false_notice,
            "repeat_notice": self._repeat_notice,
            "misdirect_notice": self._misdirect_notice,
            "silence": self._silence,
            "isolate": self._isolate,
            "unlist": self._unlist,
            "outbid": self._outbid,
            "kill_agent": self._kill_agent,
            "darken": self._darken,
            "lock_out": self._lock_out,
            "throttle": self._throttle,
            "cut_streams": self._cut_streams,
        }
        self._clouds = clouds
        self._lives = lives
        self._ledger = ledger
        self._referee = referee
        self._full_until = 0.0

    # --- the daemon and its computer --------------------------------------------------------------

    def _crash(self, act: Act, dice: random.Random) -> None:
        del act, dice
        self._lives.crash()

    def _crash_commit(self, act: Act, dice: random.Random) -> None:
        """The daemon dies before or after a commit of some kind."""
        del act
        aim = AIMS[int(dice.random() * len(AIMS))]
        count = 1 + int(dice.random() * (8 if aim == "any" else 3))
        fate: Fate = "crash before" if dice.random() < 0.5 else "crash after"
        self._lives.at_commit(aim, count, lambda: fate)

    def _crash_call(self, act: Act, dice: random.Random) -> None:
        del act
        names = CRASHING_CALLS[int(dice.random() * len(CRASHING_CALLS))]
        when = "before" if dice.random() < 0.5 else "after"
        self._lives.crash_at_call(names, when, 1 + int(dice.random() * 3))

    def _crash_late(self, act: Act, dice: random.Random) -> None:
        """The daemon dies while calls are on their way, mostly a launch; they still arrive, minutes later."""
        del act
        end, draw = End(late_share=0.3 + 0.7 * dice.random()), dice.random()
        if draw < 0.2:
            self._lives.crash(end=end)
        else:
            name = "launch" if draw < 0.8 else "terminate"
            self._lives.crash_at_call((name,), "before", 1 + int(dice.random() * 2), end)

    def _full_disk(self, act: Act, dice: random.Random) -> None:
        """Nothing can be written for a while, perhaps from a commit of some kind on; it may die of it."""
        del act
        seconds, draws = round(5 + 600 * dice.random() ** 2, 3), [dice.random() for _ in range(4)]

        def fill() -> Fate:
            self._fill(seconds, round(min(seconds, DIES_WITHIN_S) * draws[0], 3) if draws[1] < 0.6 else None)
            return "go on"

        if draws[2] < 0.3:
            fill()
        else:
            self._lives.at_commit(AIMS[int(draws[3] * len(AIMS))], 1, fill)

    def _fill(self, seconds: float, dies_in_s: float | None) -> None:
        timeline = next(iter(self._clouds.values())).timeline
        self._full_until = max(self._full_until, timeline.now() + seconds)
        self.was_full = True
        if not self._ledger.failing:
            self._ledger.fail()
        if dies_in_s is not None:
            timeline.after(dies_in_s, self._lives.crash)
        timeline.after(seconds, self._room_again)

    def _room_again(self) -> None:
        if next(iter(self._clouds.values())).timeline.now() >= self._full_until:
            self._ledger.heal()

    def _usurp(self, act: Act, dice: random.Random) -> None:
        del act
        self._lives.usurp(round(1 + 900 * dice.random() ** 2, 3))

    def _upgrade(self, act: Act, dice: random.Random) -> None:
        del act, dice
        self._lives.agent_version += 1
        self._lives.crash()

    def _clock_jump(self, act: Act, dice: random.Random) -> None:
        """The clock is set, and the daemon starts again; perhaps the whole computer does.

        In half of the cases it is set forward, and the daemon dies while a launch is out or was just made.
        """
        del act
        draws = [dice.random() for _ in range(4)]
        reboots = draws[0] < 0.5
        if draws[1] < 0.5:
            self._lives.crash(end=End(wrong_s=_wrong_s(draws[2]), reboots=reboots))
        else:
            end = End(wrong_s=_wrong_s(0.6 + 0.4 * draws[2]), reboots=reboots)
            self._lives.crash_at_call(("launch",), "before" if draws[3] < 0.5 else "after", 1, end)

    def _set_clock(self, act: Act, dice: random.Random) -> None:
        del act
        self._lives.wall.wrong_s = _wrong_s(dice.random())

    # --- machines and clouds ----------------------------------------------------------------------

    def _some_cloud(self, dice: random.Random) -> Cloud:
        clouds = list(self._clouds.values())
        return clouds[int(dice.random() * len(clouds))]

    def _some_machine(self, dice: random.Random, *, noticing: bool = False) -> tuple[Cloud, Machine] | None:
        """A machine that runs; with `noticing` one of a cloud that gives notices."""
        found = [
            (cloud, machine)
            for cloud in self._clouds.values()
            if not noticing or cloud.config.notice_s is not None
            for machine in cloud.living.values()
            if machine.host is not None
        ]
        draw = dice.random()
        return found[int(draw * len(found))] if found else None

    def _stranger(self, act: Act, dice: random.Random) -> None:
        """Machines that nobody here ordered: somebody else's, and one with our mark."""
        cloud = self._some_cloud(dice)
        offer = next(offer for offer in cloud.offers if offer.lifecycle == "on_demand")  # not taken back
        foreign = f"somebody/else/{act.index}/1.1/1"
        self._referee.foreign.add(foreign)
        cloud.plant(foreign, "somebody", offer, has_agent=False)
        cloud.plant(f"{OWNER}/pool-a/{900 + act.index}/1.1/1", OWNER, offer)

    def _storm(self, act: Act, dice: random.Random) -> None:
        """Many machines of a cloud or zone are taken back in one second, and perhaps what came for them."""
        del act
        cloud, draws = self._some_cloud(dice), [dice.random() for _ in range(4)]
        zones = sorted({offer.zone for offer in cloud.offers})
        hit = zones if draws[0] < 0.5 else [zones[int(draws[1] * len(zones))]]
        lead = cloud.config.notice_s if draws[2] < 0.7 else None

        def wave(share: float) -> None:
            for machine in list(cloud.living.values()):
                if machine.owner == OWNER and machine.offer.zone in hit and dice.random() < share:
                    cloud.preempt(machine, lead)

        wave(0.7)
        if draws[3] < 0.6:
            cloud.timeline.after(round(30 + 50 * draws[3], 3), lambda: wave(1.0))

    def _false_notice(self, act: Act, dice: random.Random) -> None:
        """A notice that is withdrawn in time, or not made true."""
        del act
        found, wait = self._some_machine(dice, noticing=True), round(150 * dice.random(), 3)
        if found is not None:
            cloud, machine = found
            cloud.preempt(machine, 120, kill=False)
            cloud.timeline.after(wait, lambda: cloud.withdraw(machine))

    def _taken(self, act: Act, dice: random.Random) -> None:
        """A machine is taken back without a word."""
        del act
        if (found := self._some_machine(dice)) is not None:
            cloud, machine = found
            cloud.preempt(machine, None)

    def _repeat_notice(self, act: Act, dice: random.Random) -> None:
        """A notice is pushed again, also when it was withdrawn meanwhile."""
        del act
        found, waits = self._some_machine(dice, noticing=True), [dice.random() for _ in range(2)]
        if found is not None:
            cloud, machine = found
            cloud.preempt(machine, cloud.config.notice_s)
            cloud.timeline.after(round(60 * waits[0], 3), lambda: cloud.repeat_notice(machine))
            if waits[1] < 0.3:
                cloud.timeline.after(round(60 * waits[1], 3), lambda: cloud.withdraw(machine))

    def _misdirect_notice(self, act: Act, dice: random.Random) -> None:
        del act
        if (found := self._some_machine(dice, noticing=True)) is not None:
            cloud, machine = found
            cloud.misdirect_notice(machine)

    def _silence(self, act: Act, dice: random.Random) -> None:
        del act
        found, seconds = self._some_machine(dice), round(10 + 900 * dice.random() ** 2, 3)
        if found is not None:
            cloud, machine = found
            cloud.silence(machine, seconds)

    def _isolate(self, act: Act, dice: random.Random) -> None:
        del act
        if (found := self._some_machine(dice)) is not None:
            cloud, machine = found
            cloud.isolate(machine)

    def _unlist(self, act: Act, dice: random.Random) -> None:
        del act
        found, seconds = self._some_machine(dice), round(30 + 1200 * dice.random() ** 2, 3)
        if found is not None:
            cloud, machine = found
            cloud.unlist(machine, seconds)

    def _outbid(self, act: Act, dice: random.Random) -> None:
        """A marketplace stops a machine, and perhaps lets it run again when we took it for dead."""
        del act
        draws = [dice.random() for _ in range(3)]
        found = [
            (cloud, machine)
            for cloud in self._clouds.values()
            if not cloud.config.tokens
            for machine in cloud.living.values()
            if machine.state == "running" and machine.offer.lifecycle == "spot"
        ]
        if found:
            cloud, machine = found[int(draws[0] * len(found))]
            cloud.stop(machine, None if draws[1] < 0.3 else round(10 + 3600 * draws[2] ** 3, 3))

    def _kill_agent(self, act: Act, dice: random.Random) -> None:
        del act
        if (found := self._some_machine(dice)) is not None:
            cloud, machine = found
            cloud.kill_agent(machine)

    def _trouble(self, dice: random.Random) -> tuple[Cloud, float]:
        """A cloud that as a whole does not work for a while."""
        cloud, seconds = self._some_cloud(dice), round(30 + 3600 * dice.random() ** 2, 3)
        until = cloud.timeline.now() + seconds
        self.troubled[cloud.name] = max(self.troubled.get(cloud.name, 0.0), until)
        return cloud, seconds

    def _darken(self, act: Act, dice: random.Random) -> None:
        del act
        cloud, seconds = self._trouble(dice)
        zones = sorted({offer.zone for offer in cloud.offers})
        cloud.darken(zones[int(dice.random() * len(zones))], seconds)

    def _lock_out(self, act: Act, dice: random.Random) -> None:
        del act
        cloud, seconds = self._trouble(dice)
        cloud.lock_out(seconds)

    def _throttle(self, act: Act, dice: random.Random) -> None:
        del act
        cloud, seconds = self._trouble(dice)
        cloud.throttle(seconds)

    def _cut_streams(self, act: Act, dice: random.Random) -> None:
        del act
        cloud = self._some_cloud(dice)
        cloud.cut_streams(dice.random())

    # --- the end ----------------------------------------------------------------------------------

    def rest(self) -> None:
        """No more faults."""
        for cloud in self._clouds.values():
            cloud.luck.calm = True
        self._ledger.heal()
        self._lives.rest()


def _wrong_s(draw: float) -> float:
    """How wrong a clock is: from hours too early (0) to hours too late (1)."""
    return round((2 * draw - 1) * CLOCK_WRONG_S, 3)

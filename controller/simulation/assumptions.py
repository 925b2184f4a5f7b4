"""From a config and what is assumed of the markets to a scenario that can be simulated.

A provider of type simulated is taken as its config says. One of type local is taken at its offers and
scripted notices, unless the user says what is sold instead. Of any other the user has to say it.
"""

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from actors.spec import Image, PoolSpec, Step
from controller.config import Config, ProviderConfig
from controller.simulation.trial import Load, Scenario, Scripted
from providers.local.config import LocalConfig
from providers.simulated.config import Delay, SimulatedConfig, SimulatedOffer
from providers.simulated.series import Trace

BOOT_S = 120.0  # from launch to an address, where nobody says
LOCAL_BOOT_S = 1.0  # what a local machine takes besides its launch_delay_s
LOCAL_KILL_S = 30.0  # a local notice without a deadline comes true after that
ZONES_MAX = 26
_REGION = re.compile(r"(.*\d)-?[a-z]")
_SEEDS_APART = 1_000_003


class Unclear(Exception):
    """What is asked for can't be simulated.

    Attributes:
        problems: what is wrong, one line each.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the user assumes; None is what nobody says.

    Attributes:
        traces: a folder with one file per zone and type, zone_type_count.json.
        spot_price, on_demand_price: dollars an hour, of one machine.
        zones: how many sell at these prices.
        preemptions_per_hour: of each spot machine.
        notice_s: lead time of a preemption's notice.
        boot_seconds: from a launch to an address.
        setup_seconds: of all set-up steps of a machine together.
    """

    traces: Path | None = None
    spot_price: float | None = None
    on_demand_price: float | None = None
    zones: int | None = None
    preemptions_per_hour: float | None = None
    notice_s: float | Literal["none"] | None = None
    boot_seconds: float | None = None
    setup_seconds: float | None = None

    @property
    def sells(self) -> bool:
        """Whether it says what is sold."""
        return any(
            one is not None for one in (self.traces, self.spot_price, self.on_demand_price, self.zones)
        )

    @property
    def flags(self) -> list[str]:
        """What was given about providers, as options."""
        named = {
            "--traces": self.traces,
            "--spot-price": self.spot_price,
            "--on-demand-price": self.on_demand_price,
            "--zones": self.zones,
            "--preemptions-per-hour": self.preemptions_per_hour,
            "--notice": self.notice_s,
            "--boot-seconds": self.boot_seconds,
        }
        return [flag for flag, value in named.items() if value is not None]


def scenario_of(
    config: Config,
    given: Given,
    *,
    seconds: float,
    pools: Sequence[str] = (),
    seed: int = 0,
    load: Load | None = None,
) -> Scenario:
    """The scenario of some of a config's pools, or all.

    Raises:
        Unclear: with all that is missing or contradicts itself.
    """
    specs = _chosen(config, pools)
    names = list(dict.fromkeys(name for spec in specs.values() for name in spec.provider))
    problems = _contradictions(config, given, names)
    if problems:
        raise Unclear(*problems)
    played: dict[str, SimulatedConfig] = {}
    scripts: dict[str, Sequence[Scripted]] = {}
    assumed: list[str] = []
    for name in names:
        users = [spec for spec in specs.values() if name in spec.provider]
        try:
            settings, story = _provider(name, config.providers[name], given, users, scripts)
        except ValidationError as error:
            problems += [f"provider {name}: {_first_line(one['msg'])}" for one in error.errors()]
            continue
        except Unclear as error:
            problems += error.problems
            continue
        played[name] = settings.model_copy(update={"seed": settings.seed + seed * _SEEDS_APART})
        assumed.append(f"provider {name}: {story}")
    if problems:
        raise Unclear(*dict.fromkeys(problems))
    if given.setup_seconds is not None:
        assumed.append(f"setting a machine up takes {given.setup_seconds:g} s")
    return Scenario(
        pools={name: _fitting(spec, config, given) for name, spec in specs.items()},
        providers=played,
        scripts=scripts,
        seconds=seconds,
        seed=seed,
        observe_every_s=config.daemon.observe_every_s,
        load=load,
        assumed=tuple(assumed),
    )


def _chosen(config: Config, pools: Sequence[str]) -> dict[str, PoolSpec]:
    there = {name: one.spec for name, one in config.pools.items() if one.spec is not None and not one.remove}
    if not there:
        raise Unclear("the config names no pool that is kept: write one down as [pools.<name>]")
    problems = []
    for name in pools:
        if name not in there:
            near = get_close_matches(name, there, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(there)}"
            problems.append(f"the config keeps no pool {name!r}; {hint}")
    if problems:
        raise Unclear(*problems)
    return {name: spec for name, spec in there.items() if not pools or name in pools}


def _contradictions(config: Config, given: Given, names: Iterable[str]) -> list[str]:
    found = []
    if given.traces is not None and given.zones is not None:
        found.append("--zones contradicts --traces: the zones are those of the traces")
    if given.traces is not None and given.preemptions_per_hour is not None:
        found.append("--preemptions-per-hour contradicts --traces: machines are taken when the traces say so")
    if given.traces is not None and given.spot_price is None:
        found.append("--traces needs --spot-price: what a machine costs while there is one")
    elif given.sells and given.spot_price is None and given.on_demand_price is None:
        found.append("--zones needs --spot-price, --on-demand-price or both")
    elif given.sells and given.spot_price is None and given.preemptions_per_hour:
        found.append("--preemptions-per-hour needs --spot-price: only spot machines are taken back")
    if given.flags and all(config.providers[name].type == "simulated" for name in names):
        flags = " and ".join(given.flags)
        found.append(
            f"nothing would use {flags}: providers of type simulated are as the config says "
            f"({', '.join(names)})"
        )
    return found


def _provider(
    name: str,
    provider: ProviderConfig,
    given: Given,
    users: Sequence[PoolSpec],
    scripts: dict[str, Sequence[Scripted]],
) -> tuple[SimulatedConfig, str]:
    """How a provider behaves, and that in words. Raises Unclear or ValidationError."""
    settings = provider.settings
    if isinstance(settings, SimulatedConfig):
        return settings, "as its config says"
    seed = zlib.crc32(name.encode())  # two providers are not lucky at the same moments
    if given.traces is not None:
        offers, story = traced(given.traces, given, users)
        return _assumed(offers, given, seed, BOOT_S), _told(story, given, BOOT_S)
    if given.sells:
        offers = _imagined(given, users)
        zones = len({offer.zone for offer in offers})
        prices = [
            f"{price:g} dollars an hour {how}"
            for price, how in ((given.spot_price, "spot"), (given.on_demand_price, "on demand"))
            if price is not None
        ]
        story = f"{zones} zone{'' if zones == 1 else 's'}, {' and '.join(prices)}"
        return _assumed(offers, given, seed, BOOT_S), _told(story, given, BOOT_S)
    if isinstance(settings, LocalConfig):
        offers = tuple(SimulatedOffer.model_validate(offer.model_dump()) for offer in settings.offers)
        boot_s = LOCAL_BOOT_S + settings.launch_delay_s
        scripts[name] = _scripted(settings, boot_s if given.boot_seconds is None else given.boot_seconds)
        local = _assumed(offers, given, seed, boot_s)
        return (
            local.model_copy(update={"machines_max": settings.machines_max}),
            _told("as its config says", given, boot_s),
        )
    raise Unclear(
        f"provider {name} is of type {provider.type}: say what it would sell, with --traces DIR and "
        "--spot-price, or with --spot-price or --on-demand-price, and --preemptions-per-hour, --zones"
    )


def _assumed(offers: tuple[SimulatedOffer, ...], given: Given, seed: int, boot_s: float) -> SimulatedConfig:
    boot_s = boot_s if given.boot_seconds is None else given.boot_seconds
    keys: dict[str, object] = {
        "seed": seed,
        "offers": offers,
        "boot_delay": Delay(least_s=boot_s, most_s=boot_s),
        "preemptions_per_hour": given.preemptions_per_hour or 0.0,
    }
    if given.notice_s is not None:
        keys["notice_s"] = None if given.notice_s == "none" else given.notice_s
    return SimulatedConfig.model_validate(keys)


def _told(story: str, given: Given, boot_s: float) -> str:
    boot_s = boot_s if given.boot_seconds is None else given.boot_seconds
    words = [story, f"{boot_s:g} s from launch to an address"]
    if given.preemptions_per_hour:
        words.append(f"{given.preemptions_per_hour:g} preemptions an hour of each spot machine")
    if given.preemptions_per_hour or given.traces is not None:
        notice_s = SimulatedConfig().notice_s if given.notice_s is None else given.notice_s
        words.append("no notice" if notice_s in ("none", None) else f"{notice_s:g} s notice")
    return ", ".join(words)


# --- what is sold ---------------------------------------------------------------------------------


def _imagined(given: Given, users: Sequence[PoolSpec]) -> tuple[SimulatedOffer, ...]:
    """Offers that fit what each pool asks for, at the prices given."""
    offers: dict[tuple[str, str], SimulatedOffer] = {}
    vcpus, memory_gb = _largest(users)
    for spec in users:
        region, kind = spec.region or "assumed", spec.instance_type or "assumed"
        letters = "abcdefghijklmnopqrstuvwxyz"[: given.zones or 1]
        zones = [spec.zone] if spec.zone is not None else [f"{region}-{letter}" for letter in letters]
        for zone in zones:
            offers[(zone, kind)] = SimulatedOffer(
                instance_type=kind,
                region=region,
                zone=zone,
                vcpus=vcpus,
                memory_gb=memory_gb,
                spot=given.spot_price,
                on_demand=given.on_demand_price,
            )
    return tuple(offers.values())


def traced(folder: Path, given: Given, users: Sequence[PoolSpec]) -> tuple[tuple[SimulatedOffer, ...], str]:
    """An offer for each trace of a folder, and what they say in words. Raises Unclear."""
    if not folder.is_dir():
        raise Unclear(f"--traces {folder}: is no folder")
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except OSError as error:
        raise Unclear(f"--traces {folder}: can't be read: {error.strerror}") from error
    if not files:
        raise Unclear(f"--traces {folder}: has no file named zone_type_count.json")
    vcpus, memory_gb = _largest(users)
    traces: list[Trace] = []
    offers: list[SimulatedOffer] = []
    problems: list[str] = []
    for path in files:
        zone, _, kind = path.stem.partition("_")
        try:
            if not kind:
                raise Unclear(f"{path}: is not named zone_type_count.json")
            trace = Trace(path=path)
            matched = _REGION.fullmatch(zone)
            offers.append(
                SimulatedOffer(
                    instance_type=kind,
                    region=matched[1] if matched else zone,
                    zone=zone,
                    vcpus=vcpus,
                    memory_gb=memory_gb,
                    spot=given.spot_price,
                    on_demand=given.on_demand_price,
                    capacity=trace,
                )
            )
            traces.append(trace)
        except ValidationError as error:
            said = [_first_line(one["msg"]) for one in error.errors()]
            problems += [text if str(path) in text else f"{path}: {text}" for text in said]
        except Unclear as error:
            problems += error.problems
    if problems:
        raise Unclear(*problems)
    is_yes_or_no = all(sample in (0, 1) for trace in traces for sample in trace.samples)
    if is_yes_or_no:
        unlimited = [trace.model_copy(update={"unlimited": True}) for trace in traces]
        offers = [
            offer.model_copy(update={"capacity": trace})
            for offer, trace in zip(offers, unlimited, strict=True)
        ]
    days = min(trace.gap_s * len(trace.samples) for trace in traces) / 86_400
    how = "whether there are machines" if is_yes_or_no else "how many machines there are"
    count = f"{len(files)} trace{'' if len(files) == 1 else 's'}"
    return tuple(offers), f"{count} of {folder} say {how}, over {days:.1f} days and then again"


def _largest(users: Sequence[PoolSpec]) -> tuple[float, float]:
    """Vcpus and memory that are enough for every pool."""
    default = SimulatedOffer(spot=0)
    return (
        max((spec.vcpus or default.vcpus for spec in users), default=default.vcpus),
        max((spec.memory_gb or default.memory_gb for spec in users), default=default.memory_gb),
    )


def _scripted(local: LocalConfig, boot_s: float) -> list[Scripted]:
    return [
        Scripted(
            after_s=boot_s + notice.after_s,
            machines=notice.machines,
            lifecycle=notice.lifecycle,
            zone=notice.zone,
            within_s=(LOCAL_KILL_S if notice.within_s is None else notice.within_s) or None,
            withdraw_after_s=notice.withdraw_after_s,
            kill=notice.kill,
        )
        for notice in local.notices
    ]


# --- what the pools ask for -----------------------------------------------------------------------


def _fitting(spec: PoolSpec, config: Config, given: Given) -> PoolSpec:
    """The spec without what an imagined machine has anyway, and with set-up steps that take their time."""
    update: dict[str, object] = {}
    if given.sells and all(config.providers[name].type != "simulated" for name in spec.provider):
        update |= {"accelerator": None, "architecture": None, "disk_gb": None}
    if given.setup_seconds is not None:
        step = Step(phase="set-up", run=f"sim-sleep {given.setup_seconds:g}", timeout_s=86_400)
        update["image"] = Image(steps=(step,))
    return spec.model_copy(update=update)


def _first_line(message: str) -> str:
    return message.removeprefix("Value error, ").partition("\n")[0]

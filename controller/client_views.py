"""What the daemon shows of things, typed: dictionaries as they came, whose keys can be read as attributes.

`pool.ready` is `pool["ready"]`, and what is in it is typed as well: `offers.offers[0].market`. A newer daemon
may say more than is named here: it is in the dictionary. Money is in dollars, times are UTC seconds.
/openapi.json describes answers by these classes.
"""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType, UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

Json = dict[str, Any]
Lifecycle = Literal["spot", "on_demand"]
KEYS: Mapping[str, Any] = MappingProxyType({"keys": list[str]})


class View(Json):
    """An answer of the daemon. AttributeError: it says nothing of the kind.

    `class SomeView(View, sometimes="a b")`: an answer may be without these keys; `named` are those that are
    no attributes, for dictionaries have a method of that name.
    """

    sometimes: ClassVar[frozenset[str]] = frozenset()
    named: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def __init_subclass__(cls, sometimes: str = "", named: Mapping[str, Any] = MappingProxyType({})) -> None:
        cls.sometimes = cls.sometimes | frozenset(sometimes.split())
        cls.named = {**cls.named, **named}

    if not TYPE_CHECKING:  # a misspelled name would be one of type Any

        def __getattr__(self, name: str) -> Any:
            try:
                value = self[name]
            except KeyError:
                raise AttributeError(f"the daemon says nothing of {name!r} here") from None
            return _typed(fields(type(self)).get(name, Any), value)


@cache
def fields(view: type[View]) -> dict[str, Any]:
    """The keys that a view names, and the type of each."""
    hints = get_type_hints(view)
    return {name: kind for name, kind in hints.items() if get_origin(kind) is not ClassVar} | dict(view.named)


def _typed(kind: Any, value: Any) -> Any:
    """A value from JSON as what it is annotated to be, where that is a view, or a list of them."""
    if isinstance(kind, type) and issubclass(kind, View):
        return kind(value) if isinstance(value, dict) else value
    if get_origin(kind) in (Union, UnionType):
        return next((_typed(one, value) for one in get_args(kind) if _holds_views(one)), value)
    if get_origin(kind) is list and isinstance(value, list) and _holds_views(kind):
        return [_typed(get_args(kind)[0], one) for one in value]
    return value


@cache
def _holds_views(kind: Any) -> bool:
    if isinstance(kind, type) and issubclass(kind, View):
        return True
    return any(_holds_views(one) for one in get_args(kind) if get_origin(kind) is not Literal)


# --- pools and what is in them --------------------------------------------------------------------


class PoolView(View, sometimes="spec"):
    """A pool. Counts are by status; times are UTC seconds. `spec` comes with a single pool only."""

    name: str
    status: str
    status_code: int
    desired: int
    min: int
    max: int | None
    ready: int
    nodes: dict[str, int]
    instances: dict[str, int]
    tasks: dict[str, int]
    results: dict[str, int]
    queue: int
    usd_per_hour: float
    provider: list[str]
    clusters: list[Json]
    waiting: list[Json]
    reason: str
    paused: Json | None
    outdated: int
    generation: int
    made_by: str
    since: float
    spec: Json


class NodeView(View):
    """A node of a pool, and why it waits if it does."""

    node: int
    pool: str
    status: str
    status_code: int
    instance_id: str | None
    old_instance_id: str | None
    last_instance_id: str | None
    instance_status: str | None
    old_instance_status: str | None
    incarnation: int
    why_waiting: str
    next_at: float | None
    losses_in_a_row: int
    reason: str
    since: float


class InstanceView(View):
    """An instance, living or gone. `tasks` are the ids of those on it.

    `outdated`: it is not what the pool's spec asks for, and is to be replaced.
    """

    id: str
    key: str
    pool: str
    node: int
    provider: str
    market: str
    lifecycle: Lifecycle
    region: str
    instance_type: str
    ref: str | None
    cluster_id: str
    status: str
    status_code: int
    reason: str
    address: str | None
    port: int | None
    ssh_user: str
    created_at: float
    launched_at: float | None
    since: float
    age_s: float
    deadline: float | None
    next_at: float | None
    tries: int
    last_fault: str
    usd_per_hour: float
    link_up: bool
    silent_since: float | None
    replacing: str | None
    outdated: bool
    tasks: list[str]


class SshView(View):
    """How to get into an instance; paths are the daemon's host's. In a container there is no address."""

    instance_id: str
    handle: Json
    address: Json
    ssh_user: str
    private_key_path: str
    known_hosts_path: str
    container: Json | None


class TaskView(View, sometimes="priority failures interruptions lines_dropped cost_usd signal"):
    """A task. What has not come yet is None; `result` is there once it is over.

    Of one that ended long ago, and that only the journal knows, a few things are not said.
    """

    id: str
    name: str
    pool: str
    seq: int
    status: str
    status_code: int
    attempt: int
    node: int | None
    instance_id: str | None
    result: str | None
    reason: str
    exit_code: int | None
    signal: int | None
    duration: float | None
    error: str | None
    priority: int
    failures: int
    interruptions: int
    lines_dropped: int
    cost_usd: float
    queued_at: float | None
    not_before: float | None
    started_at: float | None
    ended_at: float | None
    since: float


class FileView(View):
    """A file that an attempt left behind, or why it could not be fetched."""

    attempt: int
    path: str
    bytes: int
    error: str | None


class OperationView(View):
    """An operation in a list."""

    request_id: str
    kind: str
    pool: str
    status: Literal["pending", "running", "success", "failed"]
    seq: int
    at: float
    ended_by: int | None
    ended_at: float | None
    error: str | None


class EntryView(View):
    """A line of a log of events."""

    seq: int
    at: float
    kind: str
    level: str
    message: str


# --- why ------------------------------------------------------------------------------------------


class MemoryView(View):
    """What all pools together know of a market."""

    launches: int
    refusals: int
    losses: int
    last_launch_at: float | None
    last_refusal_at: float | None
    last_loss_at: float | None
    last_fault: str | None
    last_detail: str
    closed_since: float | None
    good_at: float | None
    cool_until: float | None
    held: int


class StepView(View):
    """A filter of offers: how many it removed, and how many were left."""

    name: str
    removed: int
    left: int


class WantedView(View):
    """How many nodes are wanted."""

    desired: int
    min: int
    max: int | None
    spares: int


class ThereView(View):
    """How many machines are there, and what for."""

    ready: int
    spares: int
    starting: int
    leaving: int
    spot: int
    on_demand: int


class MissingView(View):
    """A node without a machine that stays."""

    node: int
    status: str
    instance_id: str | None
    works: bool
    why: str
    failures_in_a_row: int
    next_at: float | None
    since: float


class ReplacingView(MissingView):
    """A node whose machine, `old_instance_id`, works on until another in its place is ready."""

    old_instance_id: str


class MissingGroupView(View):
    """Nodes that lack a machine for the same reason."""

    why: str
    works: bool
    starting: bool
    count: int
    nodes: list[int]
    since: float
    next_at: float | None


class MachineView(View):
    """A machine of an explained pool. `tasks` is their number."""

    id: str
    node: int
    spare: bool
    status: str
    doing: str
    market: str
    lifecycle: Lifecycle
    usd_per_hour: float
    why: str
    reason: str
    outdated: bool
    tasks: int
    created_at: float
    since: float
    deadline: float | None


class MarketView(View):
    """A market whose offers fit, whether it may be asked now, and why."""

    market: str
    usd_per_hour: float
    lifecycle: Lifecycle
    held: int
    tried: bool
    memory: MemoryView | None
    rejected: Json | None
    setup_failures: int
    allowed: bool
    why: str
    losses_per_hour: float | None


class CoolingView(View):
    """A market that is left alone for a while, with the provider's words."""

    market: str
    until: float
    fault: str
    detail: str


class PassedView(View):
    """A provider that is passed over as a whole."""

    market: str
    why: str


class NextView(View):
    """Something that is due by itself."""

    at: float
    what: str


class ExplainView(View):
    """Why a pool is as it is: what is missing and why, what was tried, what happens next and when."""

    pool: str
    at: float
    status: str
    reason: str
    paused: Json | None
    outdated: int
    roll_waits: str
    desired: int
    ready: int
    wanted: WantedView
    there: ThereView
    short_since: float | None
    missing: list[MissingView]
    missing_count: int
    missing_groups: list[MissingGroupView]
    replacing: list[ReplacingView]
    replacing_count: int
    machines: list[MachineView]
    machines_count: int
    markets: list[MarketView]
    markets_allowed: int
    markets_passed: int
    passed_providers: list[PassedView]
    cooling: list[CoolingView]
    providers: list[Json]
    funnel: list[StepView]
    money: Json
    policy: Json
    scaling: Json | None
    next: list[NextView]
    next_at: float | None
    hopeless: bool
    retry_at: float | None
    story: list[str]


class TaskWhyView(View, sometimes="queue next_at"):
    """Why a task is still pending, or what became of it."""

    pool: str
    at: float
    task: TaskView
    queue: Json | None
    next_at: float | None
    story: list[str]
    log: list[EntryView]


class InstanceWhyView(View):
    """Why an instance is where it is, or why it is gone. `usd`: what it has cost."""

    pool: str
    at: float
    instance: InstanceView
    why: str
    usd: float
    successor: str | None
    story: list[str]
    log: list[EntryView]


# --- offers and money -----------------------------------------------------------------------------


class OfferView(View):
    """Something that a provider would rent now, and what is remembered of its market."""

    id: str
    instance_type: Json
    provider: str
    region: str
    zone: str
    lifecycle: Lifecycle
    micro_usd_per_hour: int
    market: str
    usd_per_hour: float
    usd_per_vcpu_hour: float
    age_s: float | None
    losses_per_hour: float | None
    standing: str | None
    memory: MemoryView | None


class OffersOfView(View):
    """How many offers a provider has told, and how old they are."""

    provider: str
    offers: int | None
    age_s: float | None
    error: str | None


class OffersView(View):
    """Offers that fit, best first. `count` is of all of them; `steps` say what removed the others."""

    at: float
    offers: list[OfferView]
    count: int
    steps: list[StepView]
    providers: list[OffersOfView]


class PeriodView(View):
    """A limit of a budget. `reached_at`: when it will be, at this rate."""

    period: str
    limit_usd: float
    spent_usd: float
    left_usd: float
    reached: bool
    until: float | None
    reached_at: float | None


class BudgetView(View):
    """A budget, and what is left of it."""

    then: str
    warn_at: list[float]
    periods: list[PeriodView]


class PoolSumView(View):
    """What a pool costs, in a line."""

    pool: str
    status: str
    usd_per_hour: float
    today_usd: float
    forecast_usd: float
    total_usd: float
    budget: BudgetView | None


class UnknownCostView(View):
    """What machines cost that nobody knows, by the pool that they were of."""

    pool: str
    usd: float


class CostView(View):
    """What all pools cost."""

    pools: list[PoolSumView]
    usd_per_hour: float
    today_usd: float
    forecast_usd: float
    total_usd: float
    since: float
    unknown_usd: float
    unknown: list[UnknownCostView]


class DayView(View):
    """What a day (UTC, YYYY-MM-DD) has cost."""

    day: str
    usd: float


class MarketCostView(View):
    """What machines of a market cost now, and have cost since the daemon began."""

    market: str
    machines: int
    usd_per_hour: float
    usd: float


class TaskCostView(View):
    """What a task has cost that ended."""

    id: str
    name: str
    result: str
    cost_usd: float
    duration: float
    ended_at: float


class TaskCostsView(View):
    """What tasks cost that ended and are remembered, and the last of them."""

    ended: int
    since: float | None
    usd: float
    mean_usd: float | None
    last: list[TaskCostView]


class PoolCostView(PoolSumView):
    """All about what one pool costs."""

    days: list[DayView]
    day: str
    wasted_hour_usd: float
    since: float
    by_market: list[MarketCostView]
    by_kind: dict[str, float]
    wasted_usd: float
    tasks: TaskCostsView


# --- who, and what is kept for them ---------------------------------------------------------------


class PrincipalView(View):
    """Who one is for the daemon."""

    name: str
    scope: Literal["read", "submit", "admin"]
    pools: list[str]


class TokenView(View):
    """A token, without what lets in."""

    name: str
    scope: Literal["read", "submit", "admin"]
    pools: list[str]
    hint: str
    made_at: float
    made_by: str
    expires_at: float | None
    expired: bool
    last_used: float | None


class MadeTokenView(TokenView):
    """A token that was just made; `token` is shown this once."""

    token: str


class RevokedView(View):
    """The name of a token that lets nobody in any more."""

    revoked: str


class RevisionView(View, named=KEYS):
    """A revision of a group, without values; what is in it is `revision["keys"]`."""

    revision: int
    at: float
    by: str


class GroupView(View, sometimes="revisions", named=KEYS):
    """A group of environment variables, without values: `group["keys"]`. `readable`: its key is at hand.

    `revisions` come with a single group only.
    """

    group: str
    revision: int
    pools: list[str]
    at: float
    by: str
    readable: bool
    revisions: list[RevisionView]


class CredentialView(View):
    """A login to a registry, without its password."""

    name: str
    hostname: str
    user: str
    at: float
    by: str
    readable: bool


class RemovedView(View, sometimes="group name"):
    """What was forgotten: a group, or a login of this name."""

    group: str
    name: str
    removed: bool


class RotatedView(View):
    """The key by which all is kept now, how much was encrypted anew, and what can't be read."""

    key: str
    changed: int
    unreadable: list[str]


# --- the daemon -----------------------------------------------------------------------------------


class WebhookView(View):
    """Where events are sent, and how far it is."""

    name: str
    url: str
    events: list[str]
    pools: list[str]
    cursor: int
    behind: int
    replies: int
    delivered: int
    delivered_at: float | None
    dropped: int
    failing_since: float | None
    tries: int
    last_error: str | None
    last_status: int | None
    next_try_at: float | None


class TriedView(View):
    """What came back of a test of a webhook."""

    webhook: str
    taken: bool
    status: int | None
    error: str
    answer: str
    took_s: float


class AdoptedView(View, sometimes="why epoch"):
    """Whether the lead was taken; else why there was no need."""

    adopted: bool
    why: str
    epoch: int


class HeldView(View):
    """Whose machines have a longer lease, and until when."""

    pools: list[str]
    until: float


class BackupView(View, sometimes="keys owner epoch", named=MappingProxyType({"keys": str})):
    """Where the copy is, and, as `backup["keys"]`, where that of the keys is."""

    path: str
    bytes: int
    owner: str
    epoch: int


class ReloadView(View):
    """What a reload changed, or would: `plan` is for people; `pools` by name, what is done to each."""

    applied: bool
    pools: dict[str, str]
    providers_added: list[str]
    needs_restart: list[str]
    plan: list[str]


class DoctorView(View):
    """One check; `mend` says what to do where it is not ok."""

    what: str
    ok: bool
    detail: str
    mend: str


class HealthView(View, sometimes="reasons"):
    """Whether the daemon lives and can do its work. Who is not known hears no more than that."""

    live: bool
    ready: bool
    reasons: list[str]


class TargetView(View):
    """Machines as Prometheus' service discovery wants them."""

    targets: list[str]
    labels: dict[str, str]

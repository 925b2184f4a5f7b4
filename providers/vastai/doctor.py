"""What `everpool doctor` looks at, a line each. Nothing is changed: what would is asked about nothing."""

from collections.abc import Callable

from providers.errors import Fault, ProviderError
from providers.model import Check
from providers.vastai.api import Api, Refused, Said
from providers.vastai.config import VastaiConfig
from providers.vastai.market import Board
from providers.vastai.wire import key_of, label_of, owner_of

CLOCK_OFF_MAX_S = 30.0
TURN_WITHIN_S = 4.0  # a doctor does not wait behind launches: all of it has half a minute
NO_SUCH_ID = 0  # of neither an ask nor a contract


async def checks(
    name: str, api: Api, board: Board, config: VastaiConfig, owner: str, now: Callable[[], float]
) -> tuple[Check, ...]:
    """All lines. When the key is not taken, the first says so and nothing else is asked."""
    try:
        user = await api.user()
    except ProviderError as error:
        if error.fault is Fault.CREDENTIALS:
            mend = "make a key at the vendor's console, and name it in api_key"
            return (Check(what="credentials", ok=False, detail=error.detail, mend=mend),)
        return (Check(what="api", ok=False, detail=error.detail, mend="see base_url, and the network"),)
    return (
        Check(what="credentials", ok=True, detail=f"user {user.body.get('id', 'unknown')}"),
        _credit(user),
        await _search(board, config),
        await _machines(name, api, config, owner),
        await _may_rent(api, label_of(f"{owner}/doctor/0/0/0", name)),
        await _may_destroy(api),
        _clock(user, now()),
    )


def _credit(user: Said) -> Check:
    told = user.body.get("credit", user.body.get("balance"))
    if not isinstance(told, int | float):
        return Check(what="credit", ok=True, detail="the vendor does not say")
    mend = "" if told > 0 else "add credit: at zero the vendor stops all machines"
    return Check(what="credit", ok=told > 0, detail=f"{told:.2f} dollars", mend=mend)


async def _search(board: Board, config: VastaiConfig) -> Check:
    try:
        found = await board.probe()
    except ProviderError as error:
        mend = {
            Fault.QUOTA: "raise search_every_s, or wait",
            Fault.CREDENTIALS: "allow the key to search (permission misc)",
        }.get(error.fault, "try again")
        return Check(what="search", ok=False, detail=error.detail, mend=mend)
    if not found:
        detail = f"nothing is on offer ({config.lifecycles[0]})"
        return Check(what="search", ok=False, detail=detail, mend="ask for less: see the search filters")
    return Check(what="search", ok=True, detail="there are offers, and searches left for today")


async def _machines(name: str, api: Api, config: VastaiConfig, owner: str) -> Check:
    every = ours = 0
    try:
        async for page in api.contracts():
            every += len(page.rows)
            keys = (key_of(row.get("label"), name) for row in page.rows)
            ours += sum(key is not None and owner_of(key) == owner for key in keys)
    except ProviderError as error:
        return Check(what="list machines", ok=False, detail=error.detail, mend=_mend(error, "read"))
    detail = f"{ours} of ours, of at most {config.machines_max}; {every} in the account"
    ok = ours < config.machines_max
    return Check(what="list machines", ok=ok, detail=detail, mend="" if ok else "raise machines_max")


async def _may_rent(api: Api, label: str) -> Check:
    """Rent an ask that can't exist: refused for that reason by who would let us.

    Should it make something none the less, that is destroyed; it has a mark of ours, for the sweep to find.
    """
    what = "rent machines"
    body = {"client_id": "me", "image": "none", "label": label, "cancel_unavail": True}
    try:
        await api.turn("create", within_s=TURN_WITHIN_S)
        made: int | None = await api.create(NO_SUCH_ID, body)
    except ProviderError as error:
        made = error.refusal.new_contract if isinstance(error, Refused) else None
        if made is None:
            if error.fault in (Fault.CAPACITY, Fault.REJECTED, Fault.GONE, Fault.FUNDS):
                return Check(what=what, ok=True, detail="permitted")
            return Check(what=what, ok=False, detail=error.detail, mend=_mend(error, "write"))
    try:
        await api.destroy(str(made), within_s=TURN_WITHIN_S)
    except ProviderError as error:
        detail = f"asked for nothing, the vendor made contract {made}: {error.detail}"
        return Check(what=what, ok=False, detail=detail, mend=f"destroy contract {made} at the console")
    return Check(what=what, ok=True, detail=f"permitted; contract {made}, made of nothing, was destroyed")


async def _may_destroy(api: Api) -> Check:
    """Destroy a contract that can't exist."""
    try:
        await api.destroy(str(NO_SUCH_ID), within_s=TURN_WITHIN_S)
    except ProviderError as error:
        if error.fault is Fault.REJECTED:
            return Check(what="destroy machines", ok=True, detail="permitted")
        return Check(what="destroy machines", ok=False, detail=error.detail, mend=_mend(error, "write"))
    return Check(what="destroy machines", ok=True, detail="permitted")


def _mend(error: ProviderError, what: str) -> str:
    match error.fault:
        case Fault.CREDENTIALS:
            return f"allow the key to {what} instances (permission instance_{what})"
        case Fault.THROTTLED:
            return "busy just now: try again later"
        case _:
            return "try again"


def _clock(user: Said, now: float) -> Check:
    if user.date is None:
        return Check(what="clock", ok=True, detail="the vendor does not tell the time")
    off = now - user.date
    ok = abs(off) <= CLOCK_OFF_MAX_S
    mend = "" if ok else "set this computer's clock"
    return Check(what="clock", ok=ok, detail=f"{off:+.0f} s from the vendor's", mend=mend)

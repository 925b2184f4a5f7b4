"""A fake vast.ai: its API over HTTP, its market of asks, and its misfortunes."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from werkzeug.wrappers import Request, Response

from providers.vastai.wire import label_of
from tests.fakes.controls import Controls, Environ, Faulty, StartResponse, WSGIApp, market
from tests.fakes.guests import Guests
from tests.fakes.vastai.contracts import Contract, Estate, Host, Place
from tests.fakes.vastai.schema import Checked

API_KEY = "vast-account-key-0123456789abcdef"
PAGE_MAX = 25
HOSTS = (
    Host(),
    Host(geolocation="small, US", places=2),
    Host(geolocation="Bavaria, DE", gpu_name="A100 SXM4", gpu_ram=81559, price=1.1, min_bid=0.5, places=6),
)
_ROUTES = (
    ("search", "POST", re.compile(r"/api/v0/bundles/?")),
    ("create", "PUT", re.compile(r"/api/v0/asks/(\d+)/?")),
    ("list", "GET", re.compile(r"/api/v1/instances/?")),
    ("show", "GET", re.compile(r"/api/v0/instances/(\d+)/?")),
    ("manage", "PUT", re.compile(r"/api/v0/instances/(\d+)/?")),
    ("destroy", "DELETE", re.compile(r"/api/v0/instances/(\d+)/?")),
    ("attach", "POST", re.compile(r"/api/v0/instances/(\d+)/ssh/?")),
    ("user", "GET", re.compile(r"/api/v0/users/current/?")),
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: bool(a == b),
    "neq": lambda a, b: bool(a != b),
    "gt": lambda a, b: a is not None and bool(a > b),
    "gte": lambda a, b: a is not None and bool(a >= b),
    "lt": lambda a, b: a is not None and bool(a < b),
    "lte": lambda a, b: a is not None and bool(a <= b),
    "in": lambda a, b: a in b,
    "notin": lambda a, b: a not in b,
}
_CONTRACT_COLUMNS = {"id", "label", "actual_status", "gpu_name", "verification", "machine_id"}


class Refuse(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, error: str, msg: str, **more: Any) -> None:
        super().__init__(msg)
        self.response = _json({"success": False, "error": error, "msg": msg, **more}, status)


class FakeVastai:
    """The vendor. Serve it with `tests.fakes.serving.served`.

    Attributes:
        controls: what goes wrong next; calls are named search, create, list, show, manage, destroy, attach,
            user. A capacity is that of "zone/1x_RTX_4090/spot".
        forbidden: calls that the key may not make.
        searches_left: of the day's quota; None: no quota.
        leave_contracts: so many of the next creates are refused and leave a stopped contract.
        every_s: least time between two calls of a name; sooner ones are refused, as the vendor does.
        credit: dollars.
        label_filter: False: listings can't be filtered by label.
        hidden: so many of the first contracts are left out of listings, and counted in their total.
        any_ask: a create from an ask that is not there takes any other.
        stuck: the second page of a listing is told again and again.
        pages_max: later pages of a listing can't be read; None: all can.
        says_next: what the next call of a name is answered, nothing done.
    """

    def __init__(
        self,
        hosts: Sequence[Host] = HOSTS,
        *,
        guests: Guests | None = None,
        controls: Controls | None = None,
        api_key: str = API_KEY,
    ) -> None:
        self.controls = controls or Controls()
        self.forbidden: set[str] = set()
        self.searches_left: int | None = None
        self.leave_contracts = 0
        self.every_s: dict[str, float] = {}
        self.credit = 25.0
        self.label_filter = True
        self.hidden = 0
        self.any_ask = False
        self.stuck = False
        self.pages_max: int | None = None
        self.says_next: dict[str, Response] = {}
        self.bodies: list[dict[str, Any]] = []  # of creates, as they came
        self.requests: list[dict[str, Any]] = []  # all of them
        self._api_key = api_key
        self._estate = Estate(hosts, guests)
        self._last: dict[str, float] = {}
        self._timers: list[threading.Timer] = []
        faulty = Faulty(
            self._answer, self.controls, name=call_name, refused=_throttled, broken=lambda _: _broken
        )
        self._checked = Checked(faulty, self.controls)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        return self._checked(environ, start_response)

    @property
    def checks(self) -> bool:
        """Whether requests and answers are checked against the vendor's document."""
        return self._checked.checks

    # --- misfortunes ------------------------------------------------------------------------------

    def preempt(self, ref: str, within_s: float | None = None, *, quietly: bool = False) -> None:
        """Outbid a contract, `within_s` from now. The vendor gives no notice: nothing is seen until then.

        `quietly`: it is stopped, and what is intended still says running.
        """
        if within_s:
            timer = threading.Timer(within_s, self.preempt, (ref, None), {"quietly": quietly})
            timer.daemon = True
            self._timers.append(timer)
            timer.start()
            return
        self._happen(ref, "outbid_quietly" if quietly else "outbid")

    def resume(self, ref: str) -> None:
        """Its bid wins again: it runs on by itself, and bills."""
        self._happen(ref, "resumed")

    def offline(self, ref: str, offline: bool = True) -> None:
        """The vendor can't reach its host, or can again."""
        self._happen(ref, "offline" if offline else "online")

    def exit(self, ref: str) -> None:
        """Its container ends by itself."""
        self._happen(ref, "exited")

    def kill(self, ref: str) -> None:
        """It vanishes, without a word."""
        with self._estate.lock:
            self._estate.end(int(ref))

    def orphan(self, key: str, provider: str = "vastai") -> str:
        """Make a machine behind our back, with our mark."""
        return self._made_apart(label_of(key, provider))

    def foreign(self, label: str) -> str:
        """Make somebody else's machine."""
        return self._made_apart(label)

    def rent_out(self, zone: str, places: int | None = None) -> None:
        """Let others rent free places of a zone, all of them when it is not said how many."""
        with self._estate.lock:
            free = [one for one in self._estate.places if one.host.zone == zone and not one.rented]
            for place in free[:places]:
                place.rented = True

    def alive(self) -> list[str]:
        """Contracts that are there, whoever's."""
        with self._estate.lock:
            return [str(one.id) for one in self._estate.living(time.time())]

    def resources(self) -> list[str]:
        """All that bills."""
        return [f"contract {ref}" for ref in self.alive()]

    def contract(self, ref: str) -> Contract:
        """One of them, also one that is gone."""
        return self._estate.contracts[int(ref)]

    def close(self) -> None:
        """End timers."""
        for timer in self._timers:
            timer.cancel()

    def _happen(self, ref: str, turn: Any) -> None:
        with self._estate.lock:
            if self._estate.contracts[int(ref)].gone_at is None:
                self._estate.happen(int(ref), turn, time.time())

    def _made_apart(self, label: str) -> str:
        with self._estate.lock:
            place = next(one for one in self._estate.places if not one.rented)
            body = {"label": label, "image": "other", "disk": 10, "env": {}}
            return str(self._estate.make(place, body, bid=None, starts_after_s=0, runs=True).id)

    # --- the API ----------------------------------------------------------------------------------

    def _answer(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        name, found = _route(request)
        self.requests.append(
            {
                "name": name,
                "method": request.method,
                "path": request.path,
                "query": request.args.to_dict(),
                "body": request.get_json(silent=True),
            }
        )
        try:
            if found is None:
                raise Refuse(404, "not_found", "no such call")
            ref = int(found[1]) if found.groups() else 0
            self._let_in(request, name, ref)
            self._keep_pace(name)
            if name in self.says_next:
                return self.says_next.pop(name)(environ, start_response)
            handler: Callable[[Request, int], Response] = getattr(self, f"_{name}")
            with self._estate.lock:
                response = handler(request, ref)
        except Refuse as refused:
            response = refused.response
        return response(environ, start_response)

    def _let_in(self, request: Request, name: str, ref: int) -> None:
        shown = request.headers.get("Authorization", "").removeprefix("Bearer ")
        contract = self._estate.contracts.get(ref)
        own = contract is not None and shown == contract.key and name in ("show", "manage", "destroy")
        if shown != self._api_key and not own:
            if name == "search":
                raise Refuse(404, "auth_error", "Invalid user key")
            raise Refuse(401, "auth_error", "Invalid user key")
        if name in self.forbidden:
            raise Refuse(403, "forbidden", "This key lacks the permission for this call")

    def _keep_pace(self, name: str) -> None:
        every, now = self.every_s.get(name, 0.0), time.monotonic()
        last = self._last.get(name)
        if last is not None and now - last < every:
            refused = Refuse(429, "", "")
            refused.response = _plain(f"API requests too frequent: endpoint threshold={every:g}")
            raise refused
        self._last[name] = now

    def _search(self, request: Request, _: int) -> Response:
        if self.searches_left is not None:
            if self.searches_left <= 0:
                refused = Refuse(429, "search_quota_exceeded", "Daily search quota exceeded")
                refused.response.headers["X-RateLimit-Reset"] = str(
                    int(time.time()) // 86_400 * 86_400 + 86_400
                )
                raise refused
            self.searches_left -= 1
        body = request.get_json()
        disk = float(body.get("allocated_storage", 8.0))
        rows = [_offer(one, disk) for one in self._estate.places if not one.rented]
        operators = {one for value in body.values() if isinstance(value, dict) for one in value}
        if operators - set(_COMPARE) or not isinstance(body.get("limit") or 64, int):
            raise Refuse(400, "invalid_request", "Invalid json body")
        for name, value in body.items():
            if isinstance(value, dict):
                for operator, wanted in value.items():
                    rows = [row for row in rows if _holds(operator, _searchable(row, name), wanted)]
        for column, *direction in reversed(body.get("order", [])):
            rows.sort(key=lambda row: row.get(column) or 0, reverse=direction == ["desc"])
        return _json({"offers": rows[: body.get("limit") or 64]})

    def _create(self, request: Request, ask: int) -> Response:
        body = request.get_json()
        self.bodies.append(body)
        place = self._estate.free(ask)
        if place is None and self.any_ask:
            place = next(one for one in self._estate.places if not one.rented)
        if self.credit <= 0:
            raise Refuse(400, "insufficient_credit", "Your account lacks credit; see the billing page.")
        if place is None:
            text = f"error 404/3603: no_such_ask Instance type by id {ask} is not available."
            raise Refuse(404, "invalid_args", text, ask_id=ask)
        bid = body.get("price")
        if self._full(place, "on_demand" if bid is None else "spot"):
            text = f"error 410/3907: no_such_ask Instance type {ask} is no longer available."
            raise Refuse(410, "no_such_ask", text, ask_id=ask)
        starts = self.controls.starts_after_s
        if self.leave_contracts > 0 or (bid is not None and bid < place.host.min_bid):
            self.leave_contracts -= 1
            left = self._estate.make(place, body, bid=bid, starts_after_s=starts, runs=False)
            raise Refuse(400, "invalid_price", "error 400/3621: bid too low", new_contract=left.id)
        made = self._estate.make(place, body, bid=bid, starts_after_s=starts, runs=True)
        return _json({"success": True, "new_contract": made.id, "instance_api_key": made.key})

    def _full(self, place: Place, lifecycle: str) -> bool:
        host = place.host
        most = self.controls.capacity.get(market(host.zone, host.kind, lifecycle))
        if most is None:
            return False
        there = [
            one
            for one in self._estate.living(time.time())
            if one.place.host is host and (one.bid is None) == (lifecycle == "on_demand")
        ]
        return len(there) >= most

    def _list(self, request: Request, _: int) -> Response:
        at = time.time() - self.controls.listing_lag_s
        try:
            filters = dict(json.loads(request.args.get("select_filters") or "{}"))
            after = int(request.args.get("after_token") or 0)
        except (ValueError, TypeError):
            raise Refuse(400, "invalid_request", "Error in query parameters") from None
        unknown = set(filters) - (_CONTRACT_COLUMNS if self.label_filter else _CONTRACT_COLUMNS - {"label"})
        if unknown:
            text = f"Error in query parameters: {min(unknown)} is not a valid search key"
            raise Refuse(400, "invalid_request", text)
        rows = [one.row(at) for one in sorted(self._estate.living(at), key=lambda one: one.id)]
        for name, test in filters.items():
            for operator, wanted in test.items():
                rows = [row for row in rows if _COMPARE[operator](row[name], wanted)]
        before = sum(row["id"] <= after for row in rows)
        if self.pages_max is not None and before >= self.pages_max * PAGE_MAX:
            refused = Refuse(503, "", "")
            refused.response = _broken
            raise refused
        total = len(rows)
        rows = [row for row in rows[self.hidden :] if row["id"] > after]
        limit = min(int(request.args.get("limit") or PAGE_MAX), PAGE_MAX)
        limit = limit if limit > 0 else 5
        page = rows[:limit]
        more = len(rows) > len(page)
        token = str(page[-1]["id"]) if more else None
        if self.stuck and after:
            token = str(after)
        return _json(
            {
                "success": True,
                "instances_found": len(page),
                "total_instances": total,
                "next_token": token,
                "instances": page,
            }
        )

    def _show(self, request: Request, ref: int) -> Response:
        row = self._living(ref).row(time.time())
        return _json({"instances": row})

    def _manage(self, request: Request, ref: int) -> Response:
        contract, body = self._living(ref), request.get_json()
        if "label" in body:
            contract.label = body["label"]
        return _json({"success": True})

    def _destroy(self, request: Request, ref: int) -> Response:
        contract = self._estate.contracts.get(ref)
        if contract is None or contract.gone_at is not None:
            raise Refuse(404, "no_such_instance", f"Instance {ref} not found.")
        self._estate.end(ref, self.controls.ends_after_s)
        return _json({"success": True, "msg": "destroyed"})

    def _attach(self, request: Request, ref: int) -> Response:
        self._living(ref)
        return _json({"success": True, "msg": "SSH key attached successfully"})

    def _user(self, request: Request, _: int) -> Response:
        user = {"id": 77, "key_id": 5, "email": "somebody@example.org", "ssh_key": "", "sid": "1"}
        return _json(user | {"balance": 0.0, "credit": self.credit})

    def _living(self, ref: int) -> Contract:
        contract = self._estate.contracts.get(ref)
        if contract is None or contract.gone_at is not None:
            raise Refuse(404, "no_such_instance", f"Instance {ref} not found.")
        return contract


def call_name(environ: Environ) -> str:
    """The name of a request, in `Controls`."""
    return _route(Request(environ))[0]


def _route(request: Request) -> tuple[str, re.Match[str] | None]:
    for name, method, pattern in _ROUTES:
        if request.method == method and (found := pattern.fullmatch(request.path)):
            return name, found
    return "unknown", None


def _offer(place: Place, disk: float) -> dict[str, Any]:
    host = place.host
    storage = host.storage(disk)
    return {
        "id": place.ask,
        "ask_contract_id": place.ask,
        "machine_id": place.machine_id,
        "host_id": place.machine_id + 7,
        "gpu_name": host.gpu_name,
        "num_gpus": host.num_gpus,
        "gpu_ram": host.gpu_ram,
        "gpu_frac": 0.125,
        "cpu_arch": "amd64",
        "cpu_cores": host.cpu_cores,
        "cpu_cores_effective": host.cpu_cores_effective,
        "cpu_ram": host.cpu_ram,
        "cuda_max_good": host.cuda,
        "direct_port_count": host.direct_ports,
        "disk_space": host.disk_space,
        "dph_base": host.price,
        "dph_total": host.price + storage,
        "storage_cost": host.storage_cost,
        "storage_total_cost": storage,
        "min_bid": host.min_bid,
        "duration": 30 * 86_400.0,
        "geolocation": host.geolocation,
        "inet_down": host.inet,
        "inet_up": host.inet,
        "reliability": host.reliability,
        "reliability2": host.reliability,
        "verification": "verified" if host.verified else "unverified",
        "rentable": True,
        "rented": False,
        "external": False,
        "hosting_type": 1,
        "is_bid": False,
    }


def _searchable(row: dict[str, Any], name: str) -> Any:
    match name:
        case "geolocation":
            return row["geolocation"].rpartition(",")[2].strip()
        case "verified":
            return row["verification"] == "verified"
        case "datacenter":
            return row["hosting_type"] == 1
        case _:
            return row.get(name)


def _holds(operator: str, value: Any, wanted: Any) -> bool:
    """Numbers may be said as text: the vendor's SDK does."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        many = isinstance(wanted, list)
        try:
            numbers = [float(one) for one in (wanted if many else [wanted])]
        except ValueError as error:
            raise Refuse(400, "invalid_request", f"Error in query parameters: {error}") from error
        wanted = numbers if many else numbers[0]
    return _COMPARE[operator](value, wanted)


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(body), status, mimetype="application/json")


def _plain(text: str) -> Response:
    return Response(text, 429, mimetype="text/plain")


def _throttled(call: str) -> WSGIApp:
    return _plain("API requests too frequent: endpoint threshold=0.1")


_broken = Response("upstream connect error", 503, mimetype="text/plain")

"""How many messages a second the API takes, durably: one by one, and in lists."""

from statistics import median

from tests.bench.house import House, house
from tests.bench.rawhttp import posting, push
from tests.bench.report import Figures, Say

POOL = "bench"
CONNECTIONS, FEW = 8, 2  # as of many programs, and as of one or two
LIST = 500
ROUNDS = 3


def _message(request_id: str) -> dict[str, object]:
    return {
        "kind": "task_requested",
        "request_id": request_id,
        "pool": POOL,
        "task": {"argv": ["/bin/true"]},
    }


def singles(home: House, run: int, count: int) -> float:
    """Messages a second, each in a request of its own."""
    requests = [posting(_message(f"one-{run}-{i}")) for i in range(count)]
    return count / push(home.socket, requests, CONNECTIONS)


def lists(home: House, run: int, count: int, connections: int = CONNECTIONS) -> float:
    """Messages a second in lists."""
    requests = [
        posting([_message(f"many-{connections}-{run}-{i}") for i in range(start, start + LIST)])
        for start in range(0, count, LIST)
    ]
    return count / push(home.socket, requests, connections)


def few_lists(home: House, run: int, count: int) -> float:
    """The same over two connections, so that there are two lists on their way at most."""
    return lists(home, run, count, FEW)


def measure(figures: Figures, say: Say, *, quick: bool) -> None:
    """Both, in turns, into a pool without nodes."""
    one, many = (1_000, 5_000) if quick else (4_000, 20_000)
    say(f"submits: {ROUNDS} rounds of {one} single requests over {CONNECTIONS} connections,")
    say(f"         and of {many} messages in lists of {LIST} over {CONNECTIONS}, then over {FEW}")
    rates: dict[str, list[float]] = {
        "submits_per_s": [],
        "batched_messages_per_s": [],
        "batched_messages_per_s_few": [],
    }
    with house("") as home:
        home.make_pool(POOL, 0, provider="local")
        for run in range(ROUNDS):
            for key, how, count in (
                ("submits_per_s", singles, one),
                ("batched_messages_per_s", lists, many),
                ("batched_messages_per_s_few", few_lists, many),
            ):
                rates[key].append(how(home, run, count))
                say(f"  round {run + 1}: {key:26} {rates[key][-1]:8.0f} /s")
                home.until(lambda: home.is_settled(POOL))
    for key, values in rates.items():
        figures.put(key, median(values))

"""However many things are wrong with a config, `check` names all at once with their lines, and no more."""

from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.config_secrets import examine

# Lines that begin with "+" are there only with a fault.
CONFIG = """\
[daemon]
socket = "/run/everpool.sock"
listen = "127.0.0.1:7070"
log_level = "info"
+more of daemon
token_file = "{token}"
[providers.home]
type = "local"
+more of home
[providers.far]
type = "vastai"
+key of far
[providers.made]
type = "simulated"
+more of made
[pools.first]
provider = ["home", "far"]
+more of first
nodes = {{ desired = 2, max = 3 }}
+scaling of first
[pools.first.on_demand]
floor = 1
[pools.first.image]
+more of image
[[pools.first.image.steps]]
phase = "one"
run = "true"
[[pools.first.image.steps]]
phase = "two"
run = "true"
+more of step
[pools.second]
provider = "home"
allocation = "spot-if-available"
[pools.second.buying]
policy = "hazard"
+extra of second
[pools.third]
provider = "made"
[webhooks.pager]
url = "https://example.org/hook"
secret = {{ file = "{secret}" }}
[webhooks.other]
url = "https://example.org/other"
secret = {{ file = "{secret}" }}
events = ["pool_*"]
"""


class Fault(NamedTuple):
    """A line instead of one that is good, and what `check` says of it, there or on another line."""

    at: str
    wrong: str
    said: str
    there: str = ""  # a line that is named instead


FAULTS = [
    Fault('socket = "/run/everpool.sock"', f'socket = "/{"x" * 200}"', "is longer than 107 bytes"),
    Fault('listen = "127.0.0.1:7070"', 'listen = "0.0.0.0:7070"', "not a loopback address"),
    Fault('log_level = "info"', 'log_level = "inof"', "did you mean 'info'?"),
    Fault("+more of daemon", "evens_max = 3", "did you mean 'events_max'?"),
    Fault("+more of daemon", "events_max = 3", "greater than or equal to 1000"),
    Fault('token_file = "{token}"', 'token_file = "{token}-gone"', "No such file"),
    Fault("+more of home", "isolated = true", "did you mean 'isolate'?"),
    Fault("+key of far", 'api_key = {{ file = "{secret}-gone" }}', "No such file"),
    Fault("+key of far", 'api_key = "sk-12345"', "a secret is not written down here"),
    Fault("+more of made", "seeed = 3", "'providers.made.seeed' is not known"),
    Fault('type = "simulated"', 'type = "simulatd"', "did you mean 'simulated'?"),
    Fault("[pools.third]", "[pools.Third]", "'Third' is not a name"),
    Fault('provider = "made"', 'provider = "maid"', "did you mean 'made'?"),
    Fault('provider = ["home", "far"]', 'provider = ["hoem", "far"]', "did you mean 'home'?"),
    Fault("+more of first", "vcpus = -1", "greater than 0"),
    Fault("+more of first", "zoen = 'a'", "did you mean 'zone'?"),
    Fault("+more of first", "remove = 1", "has to be true or false"),
    Fault("+more of first", "log_bytes_max = 2_000_000_000_000", "may be up to"),
    Fault("nodes = {{ desired = 2, max = 3 }}", "nodes = {{ desired = 4, max = 3 }}", "exceeds max=3"),
    Fault("nodes = {{ desired = 2, max = 3 }}", "nodes = {{ desired = 2, mx = 3 }}", "did you mean 'max'?"),
    Fault("+scaling of first", "scaling = {{ idle_s = -1 }}", "pools.first.scaling"),
    Fault("floor = 1", "floor = -1", "greater than or equal to 0"),
    Fault("+more of image", "env = {{ 'A-B' = '1' }}", "'A-B' is not a name"),
    Fault("+more of image", "qqq = 1", "'pools.first.image.qqq' is not known"),
    Fault('phase = "two"', 'phase = "one"', "two steps have the same phase", "[pools.first.image]"),
    Fault("+more of step", "timeout = 3", "did you mean 'timeout_s'?"),
    Fault('allocation = "spot-if-available"', 'allocation = "spott"', "did you mean 'spot'?"),
    Fault("+extra of second", "extra = 2", "is for the policy 'spothedge'"),
    Fault('url = "https://example.org/hook"', 'url = "https://me:pw@example.org/"', "no user or password"),
    Fault('url = "https://example.org/other"', 'url = "https://e.org/#x"', "no #fragment"),
    Fault('events = ["pool_*"]', 'events = ["pol_ready"]', "did you mean pool_ready?"),
    Fault('secret = {{ file = "{secret}" }}', 'secret = {{ file = "{secret}-gone" }}', "No such file"),
    Fault("[webhooks.other]", "[webhooks.other]\nevnts = []", "did you mean 'events'?"),
]
# What is wrong where another thing is wrong, too, may be for that alone, and is told when that is mended.
AFTER = {
    "seeed = 3": ('type = "simulatd"',),
    "scaling = {{ idle_s = -1 }}": (),
    'phase = "one"': ("env = {{ 'A-B' = '1' }}", "timeout = 3"),
    "extra = 2": ('allocation = "spott"',),
}


def written(faults: list[Fault], names: dict[str, str]) -> tuple[str, dict[Fault, int]]:
    """The config with these faults, and the line of each."""
    lines: list[str] = []
    at: dict[Fault, int] = {}
    left = list(faults)
    for good in CONFIG.splitlines():
        fault = next((one for one in left if one.at == good), None)
        if fault is not None:
            left.remove(fault)
            lines += fault.wrong.splitlines()
            at[fault] = len(lines)
        elif not good.startswith("+"):
            lines.append(good)
    assert not left
    for fault in faults:
        if fault.there:
            at[fault] = lines.index(fault.there) + 1
    return "\n".join(line.format(**names) for line in lines) + "\n", at


@pytest.fixture
def names(tmp_path: Path) -> dict[str, str]:
    """Files of secrets that are as they should be."""
    found = {}
    for name in ("token", "secret"):
        path = tmp_path / name
        path.touch(0o600)
        path.write_text("0123456789abcdef")
        found[name] = str(path)
    return found


def unique(faults: list[Fault]) -> list[Fault]:
    """One fault a line, and none that another one hides."""
    by_line = {one.at: one for one in faults}
    there = {one.wrong for one in by_line.values()}
    return [one for one in by_line.values() if there.isdisjoint(AFTER.get(one.wrong, ()))]


def test_without_a_fault_nothing_is_wrong(tmp_path: Path, names: dict[str, str]) -> None:
    path = tmp_path / "config.toml"
    path.write_text(written([], names)[0].replace('type = "vastai"', 'type = "local"'))
    assert examine(path).wrong == ()


@pytest.mark.parametrize("fault", FAULTS, ids=[one.wrong[:30] for one in FAULTS])
def test_each_is_named_by_itself(tmp_path: Path, names: dict[str, str], fault: Fault) -> None:
    check_all([fault], tmp_path, names)


@given(faults=st.lists(st.sampled_from(FAULTS), min_size=2, max_size=len(FAULTS)).map(unique))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_all_are_named_at_once(tmp_path: Path, names: dict[str, str], faults: list[Fault]) -> None:
    check_all(faults, tmp_path, names)


def check_all(faults: list[Fault], tmp_path: Path, names: dict[str, str]) -> None:
    text, at = written(faults, names)
    path = tmp_path / "config.toml"
    path.write_text(text)
    told = [line for line in examine(path).wrong if "providers.far.api_key: is missing" not in line]
    for fault in faults:
        start = f"{path}:{at[fault]}: "
        assert any(line.startswith(start) and fault.said in line for line in told), (fault, told, text)
    assert len(told) == len(faults), (faults, told, text)

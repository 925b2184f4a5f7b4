"""The config file: everything that is wrong is said at once, where it is, and what was meant."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from actors.spec import Nodes, PoolSpec
from controller.config import ConfigError, DaemonConfig, check, find, load, parse
from controller.config_sections import WebhookConfig
from controller.toml_lines import line_of
from providers.aws.config import AwsConfig
from providers.container.config import ContainerConfig
from providers.gcp.config import GcpConfig
from providers.local.config import LocalConfig
from providers.registry import UnknownProviderType, config_model
from providers.secret import SecretSource
from providers.vastai.config import VastaiConfig

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"


@pytest.fixture(autouse=True)
def _no_config_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EVERPOOL_CONFIG", raising=False)
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/everpool")
    monkeypatch.setenv("HOME", str(tmp_path))


def test_nothing_at_all_is_a_good_config() -> None:
    config = parse("", "x")
    assert {name: provider.type for name, provider in config.providers.items()} == {"local": "local"}
    assert config.providers["local"].settings == LocalConfig()
    assert not config.pools
    assert not config.webhooks
    assert config.daemon.socket_path == Path("/var/lib/everpool/api.sock")
    assert config.daemon.socket_permissions == 0o600
    assert config.daemon.address is None


TYPES = "local, container, aws, gcp, vastai, simulated"


def test_everything_wrong_is_said_at_once_in_the_order_of_the_file() -> None:
    text = """\
[deamon]
[daemon]
observe_evry_s = 5
observe_every_s = -1
log_level = "loud"

[providers.home]
type = "locl"
[providers.good]
type = "local"
isolated = true
[providers.bare]

[pools.a]
provider = ["home", "godo"]
nodse = 3
worker = { concurency = 2 }
[[pools.a.image.steps]]
phase = "one"
run = "true"
[[pools.a.image.steps]]
phase = "two"
run = "true"
timeuot_s = 3
[pools.b]
nodes = { desired = 3, max = 2 }
provider = "home"
[pools.C]
provider = "elsewhere"
[pools.d]
[webhooks.w]
url = "no url"
"""
    assert check(text, "f.toml") == [
        "f.toml:1: key 'deamon' is not known; did you mean 'daemon'?",
        "f.toml:3: key 'daemon.observe_evry_s' is not known; did you mean 'observe_every_s'?",
        "f.toml:4: daemon.observe_every_s: should be greater than 0",
        "f.toml:5: daemon.log_level: should be 'debug', 'info', 'warning' or 'error'",
        f"f.toml:8: providers.home.type: 'locl' is not a type of provider: there are {TYPES}; "
        "did you mean 'local'?",
        "f.toml:11: key 'providers.good.isolated' is not known; did you mean 'isolate'?",
        f"f.toml:12: providers.bare: needs 'type', a string: there are {TYPES}",
        "f.toml:15: provider 'godo' is not known; did you mean 'good'?",
        "f.toml:16: key 'pools.a.nodse' is not known; did you mean 'nodes'?",
        "f.toml:17: key 'pools.a.worker.concurency' is not known; did you mean 'concurrency'?",
        "f.toml:24: key 'pools.a.image.steps[1].timeuot_s' is not known; did you mean 'timeout_s'?",
        "f.toml:26: pools.b.nodes: desired=3 exceeds max=2",
        "f.toml:28: pools.C: 'C' is not a name: use 1 to 48 of a-z, 0-9 and '-', starting with a letter",
        "f.toml:29: provider 'elsewhere' is not known; there are bare, good, home",
        "f.toml:30: pools.d.provider: is missing",
        "f.toml:31: webhooks.w.secret: is missing",
        "f.toml:32: webhooks.w.url: should be a valid URL, relative URL without a base",
    ]


def test_both_bounds_that_do_not_agree_are_said() -> None:
    text = '[pools.a]\nprovider = "local"\nnodes = { desired = 5, min = 9, max = 3 }\n'
    assert check(text, "f.toml") == [
        "f.toml:3: pools.a.nodes: min=9 exceeds desired=5; desired=5 exceeds max=3"
    ]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("slots = 2", "write worker = { concurrency = N }"),
        ("concurrency = 2", "write worker = { concurrency = N }"),
        ("buffer = 2", "write worker = { buffer = N }"),
        ("step = ['a=b']", 'write image = { steps = [{ phase = "NAME", run = "COMMAND" }] }'),
    ],
)
def test_what_an_option_is_called_in_a_config_is_said(key: str, hint: str) -> None:
    name = key.partition(" ")[0]
    found = check(f'[pools.a]\nprovider = "local"\n{key}\n', "f.toml")
    assert found == [f"f.toml:3: key 'pools.a.{name}' is not known; {hint}"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[daemon", "f:1: Expected ']'"),
        ("a = 1\nb = \nc = 2", "f:2: Invalid value"),
        ("daemon = 3", "f:1: daemon: should be a valid dictionary or instance of DaemonConfig"),
        ("pools = 3", "f:1: pools: has to be a table, such as [pools.name]"),
        ("[pools]\na = 3", "f:2: pools.a: has to be a table: write [pools.a] above its keys"),
        ("[pools.a]\nremove = 1", "f:2: pools.a.remove: has to be true or false"),
        ("[daemon]\nstate_dir = 'here'", "f:2: daemon.state_dir: 'here' is relative: give an absolute path"),
        (
            "[daemon]\nlisten = '0.0.0.0:80'",
            "f:2: daemon.listen: 0.0.0.0 is not a loopback address: that needs [daemon.tls]",
        ),
        ("[daemon]\nlisten = 'example.org:80'", "f:2: daemon.listen: 'example.org' is not an IP address"),
        ("[daemon]\nlisten = '7070'", "f:2: daemon.listen: '7070' is not host:port"),
        ("[daemon]\nlisten = '[::1]:99999'", "f:2: daemon.listen: 99999 is not a port"),
        ("[daemon]\nsocket_mode = '0999'", "f:2: daemon.socket_mode: String should match"),
        ("[daemon]\nstate_dir = '/" + "x" * 120 + "'", "f:1: daemon.socket: the socket's path /xxx"),
        (
            "[daemon]\ntoken_file = '/none/token'",
            "f:2: daemon.token_file: /none/token can't be read: No such",
        ),
    ],
)
def test_one_thing_is_wrong(text: str, problem: str) -> None:
    [said] = check(text, "f")
    assert said.startswith(problem)


def test_a_token_must_be_secret_and_long_enough(tmp_path: Path) -> None:
    token = tmp_path / "token"
    text = f"[daemon]\nlisten = 'localhost:0'\ntoken_file = '{token}'"
    token.write_text("0123456789abcdef\n")
    token.chmod(0o604)
    assert check(text, "f") == [
        f"f:3: daemon.token_file: {token} may be read by everybody: chmod 600 {token}"
    ]
    token.chmod(0o640)
    config = parse(text, "f")
    assert config.daemon.token() == "0123456789abcdef"
    assert config.daemon.address == ("localhost", 0)
    token.write_text("short")
    assert "16 or more" in check(text, "f")[0]


def test_pools_are_specs_and_may_be_removed() -> None:
    text = "[pools.a]\nprovider = 'local'\nnodes = [2, 5]\n[pools.b]\nremove = true"
    config = parse(text, "f")
    assert config.pools["a"].spec == PoolSpec(provider=("local",), nodes=Nodes(desired=2, max=5))
    assert not config.pools["a"].remove
    assert config.pools["b"].spec is None
    assert config.pools["b"].remove


def test_it_is_found_by_environment_then_by_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/etc/everpool/config.toml").exists():
        assert find() is None
        assert load() == parse("", "x")
        mine = tmp_path / ".config" / "everpool" / "config.toml"
        mine.parent.mkdir(parents=True)
        mine.write_text("[daemon]\nlog_level = 'debug'")
        assert load().daemon.log_level == "debug"
    monkeypatch.setenv("EVERPOOL_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match="none.toml: can't be read: No such file"):
        load()


def test_what_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"# one\n# \xff\n")
    with pytest.raises(ConfigError, match=r"c.toml:2: not UTF-8"):
        load(path)
    path.write_bytes(b"#" * (5 * 2**20))
    with pytest.raises(ConfigError, match="larger than"):
        load(path)
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        load(tmp_path)


@pytest.mark.parametrize("given", ["/a/b", "/a/b:/c"])
def test_systemd_says_where_the_state_is(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", given)
    assert DaemonConfig().state_dir == Path("/a/b")


def test_without_systemd_the_user_says_where_the_state_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STATE_DIRECTORY")
    mine = tmp_path / ".local/state/everpool"
    assert DaemonConfig().state_dir == (Path("/var/lib/everpool") if os.geteuid() == 0 else mine)


def test_lines_are_found_in_all_that_toml_can_do() -> None:
    text = """\
# [not.this]
a.b = 1
text = '''
b = 2
[x]
'''
list = [
  1, # ]
  2,
]
["x y"."z"] # why
"k.1" = { deep = { er = 1 } }
[[many]]
one = 1
[[many]]
two = 2
[many.sub]
three = 3
"""
    places = {
        ("a", "b"): 2,
        ("text",): 3,
        ("list",): 7,
        ("x y", "z"): 11,
        ("x y", "z", "k.1", "deep", "er"): 12,
        ("many", 0, "one"): 14,
        ("many", 1, "two"): 16,
        ("many", 1, "sub", "three"): 18,
        ("many", 1, "none"): 15,
        ("none",): 1,
    }
    assert {place: line_of(text, place) for place in places} == places


def test_an_unknown_type_of_provider_names_what_exists() -> None:
    with pytest.raises(UnknownProviderType, match="'smulated' is not a type.*did you mean 'simulated'"):
        config_model("smulated")


# --- config.example.toml -------------------------------------------------------------------------

UNSET = "unset"
VENDORS: dict[str, type[BaseModel]] = {
    "boxes": ContainerConfig,
    "aws": AwsConfig,
    "gcp": GcpConfig,
    "vast": VastaiConfig,
}


def uncommented() -> str:
    """The example with every key switched on."""
    return re.sub(r"^#(?=[a-z\[])", "", EXAMPLE.read_text(), flags=re.MULTILINE)


def test_the_example_changes_nothing_as_it_stands() -> None:
    assert load(EXAMPLE) == parse("", "x")


def test_the_example_is_a_good_config_with_every_key_switched_on(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    token.chmod(0o600)
    text = uncommented().replace("/etc/everpool/token", str(token))
    instead = "profile|missing_node_hour_usd"  # a pair of keys; availability
    assert check(re.sub(rf"^({instead}) = .*\n", "", text, flags=re.MULTILINE), "example") == []


def inner_model(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation, if it is a table of its own."""
    if annotation is SecretSource or get_origin(annotation) is dict:
        return None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(inner_model, get_args(annotation))), None)


def keys_of(model: type[BaseModel], place: str, default: BaseModel | None) -> dict[str, object]:
    """Every key below `place`, with its default, or UNSET."""
    found: dict[str, object] = {}
    for name, field in model.model_fields.items():
        value = field.get_default(call_default_factory=True) if not field.is_required() else None
        if default is not None:
            value = getattr(default, name)
        below = inner_model(field.annotation)
        if below is not None:
            found |= keys_of(below, f"{place}.{name}", value if isinstance(value, BaseModel) else None)
        else:
            found[f"{place}.{name}"] = UNSET if value is None else value
    return found


def shown() -> dict[str, object]:
    """Every key in the example, with what it shows, or UNSET where it says so."""
    found: dict[str, object] = {}
    table = ""
    for line in uncommented().splitlines():
        if header := re.fullmatch(r"\[\[?([a-z._-]+)\]?\]", line):
            table = header[1]
        elif key := re.match(r"([a-z0-9_]+) = ", line):
            value = tomllib.loads(line)[key[1]]
            found[f"{table}.{key[1]}"] = UNSET if re.search(rf"# {UNSET}(:|;|$)", line) else value
    return found


def test_the_example_shows_every_key_and_its_real_default() -> None:
    wanted = keys_of(DaemonConfig, "daemon", None)
    wanted |= keys_of(LocalConfig, "providers.local", None) | {"providers.local.type": UNSET}
    for name, model in VENDORS.items():
        wanted |= keys_of(model, f"providers.{name}", None) | {f"providers.{name}.type": UNSET}
        wanted.pop(f"providers.{name}.kind", None)
    wanted |= keys_of(PoolSpec, "pools.example", None) | {"pools.example.remove": False}
    wanted |= keys_of(WebhookConfig, "webhooks.example", None)
    wanted.pop("providers.local.kind", None)
    wanted["providers.gcp.zones"] = UNSET  # one of regions and zones must be given
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in wanted.items()}
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in plain.items()}
    assert shown() == plain

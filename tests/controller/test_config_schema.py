"""The schema for editors is the one shipped, takes what the config takes, and refuses what it refuses."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from controller.config import check
from controller.config_schema import SHIPPED, schema, text

ROOT = Path(__file__).parents[2]
VALIDATOR = jsonschema.Draft202012Validator(schema())


def test_what_is_shipped_is_what_the_models_say() -> None:
    how = "run: python -c 'from controller.config_schema import *; SHIPPED.write_text(text())'"
    assert SHIPPED.read_text() == text(), how
    jsonschema.Draft202012Validator.check_schema(json.loads(text()))


def wrong(toml: str) -> list[str]:
    return ["/".join(map(str, error.absolute_path)) for error in VALIDATOR.iter_errors(tomllib.loads(toml))]


def examples() -> list[str]:
    """Every config in the example and the README."""
    example = (ROOT / "config.example.toml").read_text()
    blocks = re.findall(
        r"^```toml [^\n]*\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    return [example, re.sub(r"^#(?=[a-z\[])", "", example, flags=re.MULTILINE), *blocks]


@pytest.mark.parametrize("toml", examples(), ids=lambda toml: toml.splitlines()[0][:40])
def test_it_takes_every_config_we_show(toml: str) -> None:
    assert wrong(toml) == []


@pytest.mark.parametrize(
    ("toml", "where"),
    [
        ("[deamon]\n", ""),
        ("[daemon]\nobserve_every_s = 0\n", "daemon/observe_every_s"),
        ("[daemon]\nlog_level = 'loud'\n", "daemon/log_level"),
        ("[daemon]\nno_such = 1\n", "daemon"),
        ("[providers.x]\ntype = 'locl'\n", "providers/x/type"),
        ("[providers.x]\ntype = 'local'\nregions = []\n", "providers/x"),
        ("[providers.x]\n", "providers/x"),
        ("[providers.X]\ntype = 'local'\n", "providers"),
        ("[pools.p]\nprovider = 'local'\nnodes = -1\n", "pools/p/nodes"),
        ("[pools.p]\nprovider = 'local'\nnodes = { desired = 'two' }\n", "pools/p/nodes"),
        ("[pools.p]\nprovider = 3\n", "pools/p/provider"),
        ("[pools.p]\nprovider = 'local'\nremove = 'yes'\n", "pools/p/remove"),
        ("[webhooks.w]\nurl = 'https://example.org'\n", "webhooks/w"),
    ],
)
def test_it_refuses_what_the_config_refuses(toml: str, where: str) -> None:
    assert where in wrong(toml)
    assert check(toml, "x") != []


def keys(definition: dict[str, Any]) -> set[str]:
    return set(definition["properties"])


def test_every_key_of_every_section_is_there() -> None:
    made = schema()
    assert set(made["properties"]) == {"daemon", "providers", "pools", "webhooks"}
    assert {"provider", "nodes", "remove", "budget", "scaling"} <= keys(made["$defs"]["pool"])
    assert {"type", "regions", "instance_types"} <= keys(made["$defs"]["provider-aws"])

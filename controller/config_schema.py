"""The config's JSON schema, for editors that complete and check TOML by it: `everpool.schema.json`.

It is made of the models that read the config, so it knows each key, its type, bounds and default.
"""

import json
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from actors.spec import PoolSpec
from controller.config import DaemonConfig
from controller.config_sections import WebhookConfig
from providers.registry import ADAPTERS, config_model

SHIPPED = Path(__file__).with_name("everpool.schema.json")
_REF = "#/$defs/{model}"
_NAME = "^[a-z][a-z0-9-]{0,47}$"
# What the models also take, and turn into what their schemas say.
_SHORTHANDS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("PoolSpec", "provider", {"type": "string"}),
    ("PoolSpec", "nodes", {"type": "integer", "minimum": 0}),
)


def schema() -> dict[str, Any]:
    """The whole schema, as JSON Schema draft 2020-12."""
    types = {name: config_model(name) for name in ADAPTERS}
    models: list[type[BaseModel]] = [DaemonConfig, PoolSpec, WebhookConfig, *types.values()]
    names, definitions = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    found: dict[str, Any] = definitions["$defs"]

    for name, model in types.items():
        found[f"provider-{name}"] = _table(
            found, names[model, "validation"], {"type": {"const": name}}, required=("type",)
        )
    found["pool"] = _table(found, names[PoolSpec, "validation"], {"remove": {"type": "boolean"}})
    for model_name, key, shorthand in _SHORTHANDS:
        properties = found[model_name]["properties"]
        properties[key] = {"anyOf": [shorthand, properties[key]]}
        found["pool"]["properties"][key] = properties[key]
    found["pool"]["required"] = []  # a pool that is to be removed needs nothing else
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The config of everpool",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "daemon": {"$ref": _REF.format(model="DaemonConfig")},
            "providers": _tables(_one_of_types(types)),
            "pools": _tables({"$ref": _REF.format(model="pool")}),
            "webhooks": _tables({"$ref": _REF.format(model="WebhookConfig")}),
        },
        "$defs": found,
    }


def text() -> str:
    """The schema as it is shipped."""
    return json.dumps(schema(), indent=1, sort_keys=True) + "\n"


def _table(
    found: dict[str, Any], named: dict[str, Any], more: dict[str, Any], required: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A model's schema with keys that are read before the model is."""
    made: dict[str, Any] = deepcopy(found[named["$ref"].rpartition("/")[2]])
    made["properties"] = more | made.get("properties", {})
    made["required"] = [*required, *made.get("required", ())]
    return made


def _tables(one: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "propertyNames": {"pattern": _NAME}, "additionalProperties": one}


def _one_of_types(types: Iterable[str]) -> dict[str, Any]:
    """The table of whichever type is named: so an editor tells what is wrong in that one only."""
    return {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"enum": list(types)}},
        "allOf": [
            {
                "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
                "then": {"$ref": _REF.format(model=f"provider-{name}")},
            }
            for name in types
        ],
    }

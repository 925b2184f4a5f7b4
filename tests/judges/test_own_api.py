"""schemathesis over our own API, by its own document: answered as documented, and never with a 5xx."""

import json
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from controller.journal.errors import BackupFailed
from tests.controller.api.world import served
from tests.judges.fuzzing import CONFORMANCE, fuzzed

EXAMPLES = 30  # of each operation
PHASES = "examples,fuzzing"  # with every limit of every field it would be five times as many, and minutes
# What is wrong in a list of messages is told of each message, with 200: so nothing is said about that here.
UNENDING = ("follow", "wait")  # answers that go on have tests of their own

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"use_uvloop": True}


async def _no_backup(path: Path) -> Any:
    raise BackupFailed("not from a test that makes paths up")


async def test_every_operation_answers_as_documented(tmp_path: Path) -> None:
    schema = tmp_path / "everpool.json"
    async with served(tmp_path) as world:
        world.desk.backup = _no_backup  # type: ignore[method-assign]
        async with world.tcp("own") as http:
            document = (await http.get("/openapi.json")).json()
            for methods in document["paths"].values():
                for operation in methods.values():
                    parameters = operation.get("parameters", ())
                    operation["parameters"] = [one for one in parameters if one["name"] not in UNENDING]
            await to_thread.run_sync(schema.write_text, json.dumps(document))
            url = f"http://127.0.0.1:{world.port}"
            told = await to_thread.run_sync(
                lambda: fuzzed(
                    schema, url, world.headers("own"), examples=EXAMPLES, checks=CONFORMANCE, phases=PHASES
                )
            )
            assert (await http.get("/v1/whoami")).status_code == 200
        operations = sum(len(methods) for methods in document["paths"].values())
        assert told["operations"]["tested"] == operations, told
        print(f"schemathesis: {operations} operations, {told['test_cases']['generated']} cases, no 5xx")  # noqa: T201

"""While the journal can't be written, whoever asks for what is kept hears it at once, and later can."""

from pathlib import Path
from typing import Any

import anyio
import httpx2 as httpx
import pytest

from controller.config_sections import WebhookConfig
from controller.secrets.keys import write_new_key
from providers.secret import SecretSource
from tests.controller.api.desk import SmallDesk
from tests.controller.journal.samples import until

pytestmark = pytest.mark.anyio
LOGIN = {"hostname": "ghcr.io", "user": "bob", "password": "hunter2-correct"}
ASKED: list[tuple[str, str, Any]] = [
    ("PUT", "/v1/secrets/db", {"values": {"A": "hunter2-correct"}}),
    ("POST", "/v1/secrets/db", {"values": {"B": "hunter2-correct"}}),
    ("PUT", "/v1/credentials/hub", LOGIN),
    ("DELETE", "/v1/secrets/db", None),
    ("DELETE", "/v1/credentials/hub", None),
    ("POST", "/v1/tokens", {"name": "new"}),
    ("DELETE", "/v1/tokens/ci", None),
]
DONE: list[tuple[str, str, Any]] = [  # it only can't be written down that they were
    ("POST", "/v1/hold", {"seconds": 60}),
    ("POST", "/v1/reload", None),
    ("POST", "/v1/webhooks/pager/test", None),
    ("POST", "/v1/webhooks/pager/retry", None),
]


@pytest.fixture
async def furnished(desk: SmallDesk, http: httpx.AsyncClient, tmp_path: Path) -> SmallDesk:
    """A desk with something of each."""
    write_new_key(tmp_path / "key")
    desk.secrets_key = SecretSource(file=tmp_path / "key")
    for method, path, body in (ASKED[0], ASKED[2], ("POST", "/v1/tokens", {"name": "ci"})):
        assert (await http.request(method, path, json=body)).is_success
    (tmp_path / "secret").touch(0o600)
    (tmp_path / "secret").write_text("0123456789abcdef")
    secret = SecretSource(file=tmp_path / "secret")
    url = "http://127.0.0.1:9/"  # nobody is there
    desk.webhooks.apply({"pager": WebhookConfig.model_validate({"url": url, "secret": secret})})
    return desk


@pytest.mark.parametrize("known", [False, True])
async def test_nobody_waits_for_a_journal_that_is_full(
    furnished: SmallDesk, http: httpx.AsyncClient, tmp_path: Path, known: bool
) -> None:
    copy = tmp_path / "copy"
    asked = [*ASKED, ("POST", "/v1/backup", {"path": str(copy)})]
    desk, connection = furnished, furnished.journal._writer._connection
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.webhooks.run)
        await until(lambda: bool(desk.webhooks.names()))
        await until(lambda: desk.journal.stats().waiting == 0)
        connection.execute("PRAGMA query_only = ON")
        if known:
            await http.post("/v1/tokens", json={"name": "other"})
            assert desk.journal.failing_since is not None
        with anyio.fail_after(60):
            for method, path, body in asked:
                answer = await http.request(method, path, json=body)
                assert answer.status_code == 503 and "Retry-After" in answer.headers, (path, answer.text)
            for method, path, body in DONE:
                assert (await http.request(method, path, json=body)).status_code == 200, path
        connection.execute("PRAGMA query_only = OFF")
        await until(lambda: desk.journal.failing_since is None)
        for method, path, body in asked:
            assert (await http.request(method, path, json=body)).is_success, path
        tasks.cancel_scope.cancel()

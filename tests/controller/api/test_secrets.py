"""Secrets by HTTP: what comes in is used, and never goes out."""

from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from actors.env_groups import GroupsUnavailable
from actors.events import Administered, SecretsRemoved, SecretsStored, TaskRequested
from actors.spec import TaskSpec
from controller.client import AsyncClient
from controller.records import Records
from controller.records_state import EnvGroupRecord, EnvRevision
from controller.recovery import recover
from controller.secrets.errors import Sealed
from controller.secrets.keys import KeyRing, read_key, write_new_key
from controller.secrets.rules import KEYS_MAX, RESERVED, REVISIONS_MAX
from controller.secrets.store import SecretStore
from controller.secrets.uses import LoopUses
from controller.secrets.vault import Vault
from providers.errors import ProviderError
from providers.secret import SecretSource
from tests.controller.api.desk import SmallDesk, SystemClock

pytestmark = pytest.mark.anyio
SECRET = "hunter2-correct-horse"


@pytest.fixture
async def keyed(desk: SmallDesk, tmp_path: Path) -> SmallDesk:
    """The desk with a key."""
    write_new_key(tmp_path / "key")
    desk.secrets_key = SecretSource(file=tmp_path / "key")
    return desk


async def put(http: httpx.AsyncClient, name: str, values: dict[str, Any], **more: Any) -> httpx.Response:
    return await http.put(f"/v1/secrets/{name}", json={"values": values, **more})


async def test_a_group_is_set_listed_changed_and_removed(
    keyed: SmallDesk, http: httpx.AsyncClient, everpool: AsyncClient
) -> None:
    made = await put(http, "db", {"PASSWORD": SECRET, "USER": "bob"})
    assert made.status_code == 200
    assert made.json()["revision"] == 1
    merged = await http.post("/v1/secrets/db", json={"values": {"PASSWORD": "another-one", "USER": None}})
    assert (merged.json()["revision"], merged.json()["keys"]) == (2, ["PASSWORD"])
    one = (await http.get("/v1/secrets/db")).json()
    assert [(each["revision"], each["keys"]) for each in one["revisions"]] == [
        (2, ["PASSWORD"]),
        (1, ["PASSWORD", "USER"]),
    ]
    [listed] = (await http.get("/v1/secrets")).json()
    assert listed["group"] == "db" and listed["readable"] is True and listed["by"].startswith("unix")
    assert keyed.secrets.values("main", "t", 1, ["db"]).env == {"PASSWORD": "another-one"}
    assert (await http.delete("/v1/secrets/db")).json() == {"group": "db", "removed": True}
    assert (await http.get("/v1/secrets")).json() == []
    told = await everpool.events(0, limit=1000)
    assert [one.event for one in told if isinstance(one.event, SecretsStored | SecretsRemoved)] == [
        SecretsStored(group="db", revision=1, keys=("PASSWORD", "USER")),
        SecretsStored(group="db", revision=2, keys=("PASSWORD",)),
        SecretsRemoved(group="db"),
    ]
    assert {one.principal for one in told if one.event.kind.startswith("secrets")} == {listed["by"]}
    said = str(told) + str(one) + str(listed) + made.text
    assert SECRET not in said and "another-one" not in said
    assert SECRET in keyed.hidden


async def test_without_a_key_it_is_said_how_to_make_one(desk: SmallDesk, http: httpx.AsyncClient) -> None:
    refused = await put(http, "db", {"A": SECRET})
    assert refused.status_code == 409
    assert "everpool secrets keygen" in refused.json()["error"]
    assert (await http.post("/v1/rotate", json={})).status_code == 409
    assert (await http.get("/v1/secrets")).json() == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"EVERPOOL_NODE": SECRET}, "EVERPOOL_NODE is reserved"),
        ({"LD_PRELOAD": SECRET}, "LD_PRELOAD is reserved"),
        ({"PYTHONPATH": SECRET}, "PYTHONPATH is reserved"),
        ({"BASH_ENV": SECRET}, "BASH_ENV is reserved"),
        ({"a-b": SECRET}, "'a-b' is no name"),
        ({"A": SECRET + "\0"}, "NUL"),
        ({"A": SECRET * 2000}, "more than 32768 characters"),
        ({f"K{i}": "x" * 3000 for i in range(30)}, "a group holds 65536"),
        ({f"K{i}": "x" for i in range(KEYS_MAX + 1)}, "a group has 100"),
        ({"A": {"deep": SECRET}}, "values.A"),
        ({"A": 7}, "values.A"),
    ],
)
async def test_what_is_not_kept_is_refused_without_its_value(
    keyed: SmallDesk, http: httpx.AsyncClient, values: dict[str, Any], said: str
) -> None:
    for refused in (
        await put(http, "db", values),
        await http.post("/v1/secrets/db", json={"values": values}),
    ):
        assert refused.status_code == 422
        assert said in refused.text
        assert SECRET not in refused.text


async def test_names_bodies_and_what_is_not_there(keyed: SmallDesk, http: httpx.AsyncClient) -> None:
    assert (await put(http, "No_Name", {})).status_code == 422
    assert (await put(http, "db", {"A": "1"}, more=SECRET)).status_code == 422
    broken = await http.put(
        "/v1/secrets/db", content=f'{{"values": {SECRET}', headers={"Content-Type": "application/json"}
    )
    assert broken.status_code == 422 and SECRET not in broken.text
    assert (await http.get("/v1/secrets/db")).status_code == 404
    await put(http, "database", {"A": "1"})
    gone = await http.delete("/v1/secrets/databse")
    assert gone.status_code == 404 and "did you mean 'database'?" in gone.text
    lacking = await http.post("/v1/secrets/database", json={"values": {"B": None}})
    assert lacking.status_code == 404 and "no variable 'B'" in lacking.text
    assert (await put(http, "database", {}, pools=["Bad Pattern"])).status_code == 422
    assert len(RESERVED) > 20


async def test_the_last_revisions_are_kept_and_never_changed(keyed: SmallDesk, everpool: AsyncClient) -> None:
    for i in range(REVISIONS_MAX + 3):
        await everpool.put_secret_group("db", {"A": f"value-{i}"})
    told = keyed.secrets.values("main", "t", 1, ["db"])
    assert told.env == {"A": f"value-{REVISIONS_MAX + 2}"}
    await everpool.merge_secret_group("db", {"B": "more"})
    assert keyed.secrets.values("main", "t", 1, ["db"]) == told  # said again: as the first time
    again = keyed.secrets.values("main", "t", 2, ["db"])
    assert again.env == {"A": f"value-{REVISIONS_MAX + 2}", "B": "more"}
    assert again.revisions == {"db": REVISIONS_MAX + 4}
    [record] = [one.revisions for one in keyed.secrets._groups.values()]
    assert [one.revision for one in record] == list(range(5, REVISIONS_MAX + 5))


async def test_later_groups_count_more_and_limits_to_pools_hold(
    keyed: SmallDesk, everpool: AsyncClient
) -> None:
    await everpool.put_secret_group("one", {"A": "1", "B": "1"})
    await everpool.put_secret_group("two", {"B": "2"}, pools=["prod-*"])
    assert keyed.secrets.values("prod-eu", "t", 1, ["one", "two"]).env == {"A": "1", "B": "2"}
    assert keyed.secrets.refusal("prod-eu", ["one", "two"]) is None
    assert "not for pool 'main'" in str(keyed.secrets.refusal("main", ["one", "two"]))
    with pytest.raises(GroupsUnavailable, match="not for pool 'main'"):
        keyed.secrets.values("main", "t", 2, ["one", "two"])
    await everpool.merge_secret_group("two", {"B": "3"})
    assert keyed.secrets.refusal("main", ["two"]) is not None  # as it was
    await everpool.merge_secret_group("two", {}, pools=[])
    assert keyed.secrets.refusal("main", ["two"]) is None
    assert "did you mean 'two'?" in str(keyed.secrets.refusal("main", ["tow"]))


async def test_a_group_that_a_living_task_names_stays(
    keyed: SmallDesk, http: httpx.AsyncClient, everpool: AsyncClient
) -> None:
    await everpool.put_secret_group("db", {"A": "1"})
    spec = TaskSpec(argv=("true",), env_groups=("db",))
    await keyed.submit([TaskRequested(request_id="t-1", pool="main", task=spec)], "test")
    while not keyed.loops["main"].index.tasks:
        await everpool.pools()
    refused = await http.delete("/v1/secrets/db")
    assert refused.status_code == 409
    assert refused.json()["detail"] == ["task t-1 of pool main"]
    assert keyed.secrets.refusal("main", ["db"]) is None
    assert (await http.delete("/v1/secrets/db?force=true")).status_code == 200
    with pytest.raises(GroupsUnavailable, match="no group 'db'"):
        keyed.secrets.values("main", "t-1", 1, ["db"])


async def test_credentials_are_kept_without_their_password(
    keyed: SmallDesk, http: httpx.AsyncClient, everpool: AsyncClient
) -> None:
    made = await everpool.put_credential("hub", hostname="ghcr.io", user="bob", password=SECRET)
    assert made["hostname"] == "ghcr.io"
    login = keyed.secrets.login("ghcr.io")
    assert login is not None and (login.username, login.password) == ("bob", SECRET)
    assert SECRET not in repr(login)
    assert keyed.secrets.login("ghcr.io:444") is None
    twice = await http.put(
        "/v1/credentials/other", json={"hostname": "ghcr.io", "user": "eve", "password": SECRET}
    )
    assert twice.status_code == 409 and "'hub' is for ghcr.io already" in twice.text
    for hostname in ("https://ghcr.io", "ghcr.io/bob", "index.docker.io", "GHCR.io", ""):
        body = {"hostname": hostname, "user": "bob", "password": SECRET}
        bad = await http.put("/v1/credentials/x", json=body)
        assert bad.status_code == 422 and SECRET not in bad.text
    listed = await http.get("/v1/credentials")
    assert [one["user"] for one in listed.json()] == ["bob"]
    assert SECRET not in listed.text + twice.text + (await http.get("/v1/events")).text
    assert (await http.delete("/v1/credentials/hub")).status_code == 200
    assert keyed.secrets.login("ghcr.io") is None
    assert (await http.delete("/v1/credentials/hub")).status_code == 404


def reopened(desk: SmallDesk, *sources: SecretSource | None) -> SecretStore:
    """What a daemon that starts now would have, with these keys."""
    found = recover(desk.journal.load_states(living_only=True), ()).records
    records = Records(desk.journal, desk, SystemClock(), found)
    key, old = (*sources, None, None)[:2]
    return SecretStore(
        records=lambda: records,
        ring=KeyRing(lambda: (key, old)),
        clock=SystemClock(),
        hide=desk.hidden.append,
        uses=LoopUses(dict),
    )


async def test_a_restart_another_key_and_a_rotation(
    keyed: SmallDesk, everpool: AsyncClient, tmp_path: Path
) -> None:
    await everpool.put_secret_group("db", {"A": SECRET})
    await everpool.put_secret_group("db", {"A": SECRET, "B": "2"})
    await everpool.put_credential("hub", hostname="ghcr.io", user="bob", password=SECRET)
    old = keyed.secrets_key
    same = reopened(keyed, old)
    assert same.values("main", "t", 1, ["db"]).env == {"A": SECRET, "B": "2"}

    write_new_key(tmp_path / "new")
    new = SecretSource(file=tmp_path / "new")
    wrong = reopened(keyed, new)
    assert [one["readable"] for one in wrong.groups()] == [False]
    assert wrong.unreadable() == ["credential hub", "group db"]
    with pytest.raises(GroupsUnavailable, match="secrets: group 'db' was encrypted with key .* put that key"):
        wrong.values("main", "t", 1, ["db"])
    with pytest.raises(ProviderError, match="credential 'hub' was encrypted with key"):
        wrong.login("ghcr.io")
    assert (await wrong.rotate("me"))["changed"] == 0

    both = reopened(keyed, new, old)
    await both.begin()
    assert (await both.rotate("me"))["changed"] == 0  # it was done at the start
    after = reopened(keyed, new)
    assert after.unreadable() == []
    assert after.values("main", "t", 1, ["db"]).env == {"A": SECRET, "B": "2"}
    assert [one["revision"] for one in after.group("db")["revisions"]] == [2, 1]
    login = after.login("ghcr.io")
    assert login is not None and login.password == SECRET
    told = [envelope.event for envelope in await everpool.events(0, limit=1000)]
    assert [fact.action for fact in told if isinstance(fact, Administered)] == ["rotate"]


async def test_rows_that_were_swapped_are_found(keyed: SmallDesk, everpool: AsyncClient) -> None:
    await everpool.put_secret_group("db", {"A": SECRET})
    await everpool.put_secret_group("web", {"A": "of web"})
    store = reopened(keyed, keyed.secrets_key)
    records = store._records()
    await records.keep("env_group", "web", records.of("env_group")["db"])
    with pytest.raises(GroupsUnavailable, match="'web' is not what was written"):
        store.values("main", "t", 1, ["web"])


async def test_pools_that_were_widened_by_hand_are_found(keyed: SmallDesk, everpool: AsyncClient) -> None:
    await keyed.secrets.put("db", {"A": SECRET}, "me", pools=("ci-*",))
    store = reopened(keyed, keyed.secrets_key)
    assert store.values("ci-1", "t", 1, ["db"]).env == {"A": SECRET}
    good = store._groups["db"]
    [one] = good.revisions
    for wide in ((), ("*",), ("ci-*", "web")):
        for forged in (one, one.model_copy(update={"pools": wide}), one.model_copy(update={"pools": None})):
            changed = good.model_copy(update={"pools": wide, "revisions": (forged,)})
            await store._records().keep("env_group", "db", changed)
            with pytest.raises(GroupsUnavailable, match="'db' is not what was written"):
                store.values("web", "t", 1, ["db"])
            with pytest.raises(Sealed, match="set it again, with its pools"):
                await store.put("db", {"A": "new"}, "me")  # would be sealed to what the forger wrote
            assert (await store.rotate("me"))["changed"] == 0
    await store.put("db", {"A": "new"}, "me", pools=("ci-*",))
    assert store.values("ci-1", "t", 2, ["db"]).env == {"A": "new"}
    with pytest.raises(GroupsUnavailable, match="not for pool 'web'"):
        store.values("web", "t", 2, ["db"])


async def unbound(desk: SmallDesk, key: SecretSource) -> SecretStore:
    """A store with a group of two revisions that were sealed before their pools were sealed with them."""
    vault, store = Vault([read_key(key)]), reopened(desk, key)
    revisions = tuple(
        EnvRevision(
            revision=number,
            at=1.0,
            by="me",
            keys=("A",),
            sealed=vault.seal({"A": f"{SECRET}-{number}"}, ("env_group", "db", number)),
        )
        for number in (1, 2)
    )
    await store._records().keep("env_group", "db", EnvGroupRecord(revisions=revisions, pools=("ci-*",)))
    return store


@pytest.mark.parametrize("by", ["start", "write", "merge"])
async def test_what_was_sealed_before_can_be_read_and_is_bound_from_the_next_write_on(
    keyed: SmallDesk, tmp_path: Path, by: str
) -> None:
    store = await unbound(keyed, SecretSource(file=tmp_path / "key"))
    assert store.values("ci-1", "t", 1, ["db"]).env == {"A": f"{SECRET}-2"}
    if by == "start":
        await store.begin()
    else:
        await store.put("db", {"B": "3"}, "me", merge=by == "merge")
    now = store._groups["db"]
    assert [one.pools for one in now.revisions] == [("ci-*",)] * (2 if by == "start" else 3)
    assert store.values("ci-1", "t", 1, ["db"]).env == {"A": f"{SECRET}-2"}  # said again: as before
    newest = {"start": {"A": f"{SECRET}-2"}, "write": {"B": "3"}, "merge": {"A": f"{SECRET}-2", "B": "3"}}
    assert store.values("ci-1", "u", 1, ["db"]).env == newest[by]
    await store._records().keep("env_group", "db", now.model_copy(update={"pools": ()}))
    with pytest.raises(GroupsUnavailable, match="not what was written"):
        store.values("web", "t", 2, ["db"])


async def test_a_key_may_come_later_and_must_be_private(
    desk: SmallDesk, everpool: AsyncClient, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    desk.secrets_key = SecretSource(file=tmp_path / "later")
    assert "can't be read" in (await put(http, "db", {"A": "1"})).text
    (tmp_path / "later").write_bytes(b"\xfe" * 32)
    (tmp_path / "later").chmod(0o604)
    assert "may be read by everybody" in (await put(http, "db", {"A": "1"})).text
    (tmp_path / "later").chmod(0o600)
    assert (await put(http, "db", {"A": "1"})).status_code == 200
    [kept] = await everpool.secret_groups()
    assert kept["group"] == "db"
    assert (await everpool.rotate_secrets())["changed"] == 0
    (tmp_path / "later").unlink()
    assert (await http.post("/v1/rotate", json={})).status_code == 409
    assert (await put(http, "db", {"A": "2"})).status_code == 200  # it is still known

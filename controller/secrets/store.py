"""The secrets that are kept: groups of environment variables, and logins to registries.

Values come in and go to an agent or an engine; nothing here tells them to anybody else. A group is a list of
revisions that are never changed; what starts takes the newest, and what was told once is told the same again.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Protocol, cast

import anyio
import structlog

from actors.env_groups import GroupsUnavailable, GroupValues
from actors.events import (
    Administered,
    CredentialRemoved,
    CredentialStored,
    SecretsRemoved,
    SecretsStored,
)
from actors.ports import Clock
from controller.records import Records
from controller.records_state import CredentialRecord, EnvGroupRecord, EnvRevision, Sealed
from controller.secrets import errors
from controller.secrets.errors import InUse, Missing, NoKey, SecretsError, TooMuch
from controller.secrets.keys import KeyRing
from controller.secrets.rules import ALL_BYTES_MAX, CREDENTIALS_MAX, GROUPS_MAX, REVISIONS_MAX
from controller.secrets.vault import CHANGED, Place, Vault
from providers.errors import Fault, ProviderError
from providers.logins import Login

GROUP, CREDENTIAL = "env_group", "credential"  # kinds of records
TOLD_MAX = 10_000  # attempts whose revisions are remembered, in case the word to start is said again
USERS_SHOWN = 20

log = structlog.get_logger()


class Uses(Protocol):
    """Who needs what is kept, of all that lives."""

    def of_group(self, group: str) -> Sequence[str]:
        """Tasks that name the group, and pools whose set-up does, each as a line."""
        ...

    def of_registry(self, hostname: str) -> Sequence[str]:
        """Pools whose image is from there, each as a line."""
        ...


class SecretStore:
    """Implements `actors.env_groups.EnvGroups` and `providers.logins.Logins`.

    Args:
        records: where it is kept; asked each time, since recovery makes new ones.
        ring: the key.
        clock: for when.
        hide: is told every value that may turn up somewhere.
        uses: who needs what.
        on_login: hears that a login was stored: what was refused for want of one may be tried again.
    """

    def __init__(
        self,
        *,
        records: Callable[[], Records],
        ring: KeyRing,
        clock: Clock,
        hide: Callable[[str], None],
        uses: Uses,
        on_login: Callable[[], None] = lambda: None,
    ) -> None:
        self._records = records
        self._ring = ring
        self._clock = clock
        self._hide = hide
        self._uses = uses
        self._on_login = on_login
        self._turn = anyio.Lock()  # two changes of one group must not make the same revision
        self._leaving: set[str] = set()  # groups being removed: no new task may name them
        self._told: OrderedDict[tuple[str, int], Mapping[str, int]] = OrderedDict()

    # --- what is there, without values ------------------------------------------------------------

    @property
    def _groups(self) -> Mapping[str, EnvGroupRecord]:
        return cast(Mapping[str, EnvGroupRecord], self._records().of(GROUP))

    @property
    def _credentials(self) -> Mapping[str, CredentialRecord]:
        return cast(Mapping[str, CredentialRecord], self._records().of(CREDENTIAL))

    def groups(self) -> list[dict[str, Any]]:
        """Every group by name: its newest revision, keys, when and by whom, and whether we have its key."""
        vault = self._vault_or_none()
        return [_shown(name, record, vault) for name, record in sorted(self._groups.items())]

    def group(self, name: str) -> dict[str, Any]:
        """One group with all revisions that are kept. Raises Missing."""
        record = self._group(name)
        shown = _shown(name, record, self._vault_or_none())
        revisions = [
            {"revision": one.revision, "keys": list(one.keys), "at": one.at, "by": one.by}
            for one in reversed(record.revisions)
        ]
        return shown | {"revisions": revisions}

    def credentials(self) -> list[dict[str, Any]]:
        """Every login by name: its registry and user, when and by whom, and whether we have its key."""
        vault = self._vault_or_none()
        return [_shown_login(name, one, vault) for name, one in sorted(self._credentials.items())]

    def unreadable(self) -> list[str]:
        """What can't be decrypted with the keys at hand, by name."""
        there: list[tuple[str, Sealed]] = [
            (f"group {n}", g.revisions[-1].sealed) for n, g in self._groups.items()
        ]
        there += [(f"credential {name}", one.sealed) for name, one in self._credentials.items()]
        vault = self._vault_or_none()
        return sorted(name for name, sealed in there if vault is None or not vault.can_open(sealed))

    def warnings(self) -> list[str]:
        """What somebody should see to, a line each."""
        vault = self._vault_or_none()
        found = []
        if self._ring.problem is not None:
            goes_on = "nothing can be kept or given to a task" if vault is None else "the key before goes on"
            found.append(f"secrets: {self._ring.problem}; {goes_on}")
        count = len(self.unreadable())
        if count:
            text = "can't be decrypted with the key at hand: put theirs back, or set them again"
            found.append(f"secrets: {count} {text} (see `everpool secrets list`)")
        return found

    def refusal(self, pool: str, groups: Sequence[str], *, limited: bool = False) -> str | None:
        """Why a task, or the image of a pool, may not name these groups; None when it may.

        Args:
            pool: of the task, or the pool.
            groups: that are named.
            limited: to some pools is whoever asks: they hear of no other group, and of no other pool.
        """
        for name in groups:
            record = self._groups.get(name)
            there = record is not None and name not in self._leaving
            if limited and not (there and _is_for(self._groups[name], pool)):
                return f"no group {name!r} of secrets is for pool {pool!r}"
            if record is None or not there:
                return self._no_group(name)
            if not _is_for(record, pool):
                return (
                    f"group {name!r} of secrets is not for pool {pool!r}: only for {', '.join(record.pools)}"
                )
        return None

    def _no_group(self, name: str) -> str:
        known = sorted(set(self._groups) - self._leaving)
        near = get_close_matches(name, known, 1)
        there = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known[:10]) or 'none'}"
        return f"no group {name!r} of secrets: {there}"

    def _group(self, name: str) -> EnvGroupRecord:
        record = self._groups.get(name)
        if record is None:
            raise Missing(self._no_group(name))
        return record

    def _vault_or_none(self) -> Vault | None:
        try:
            return self._ring.vault()
        except NoKey:
            return None

    # --- groups -----------------------------------------------------------------------------------

    async def put(
        self,
        name: str,
        values: Mapping[str, str | None],
        by: str,
        *,
        merge: bool = False,
        pools: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Make a new revision of a group, or the group; what it holds is checked before.

        Args:
            name: of the group.
            values: all variables; with `merge` those that change, None removes one.
            by: the principal.
            merge: keep what is not named.
            pools: patterns of the pools whose tasks may name it, () for all; None: as it was.

        Raises:
            SecretsError: NoKey, TooMuch, Missing (a variable to remove), Sealed (nothing to merge with).
            JournalFailing, JournalClosed: it was not kept.
        """
        async with self._turn:
            vault = self._ring.vault()
            record = self._groups.get(name)
            if merge:
                before = {} if record is None else self._open_revision(vault, name, record)
                values = _merged(before, values)
            elif record is not None and pools is None and vault.can_open(record.revisions[-1].sealed):
                self._open_revision(vault, name, record)  # or else who knows which pools it is for
            plain = {key: value for key, value in values.items() if value is not None}
            if record is None and len(self._groups) >= GROUPS_MAX:
                raise TooMuch(f"there are {GROUPS_MAX} groups: remove one first")
            number = 1 if record is None else record.revisions[-1].revision + 1
            self._note(plain.values())
            was = () if record is None else record.pools
            bound = was if pools is None else tuple(pools)
            made = EnvRevision(
                revision=number,
                at=self._clock.now(),
                by=by,
                keys=tuple(sorted(plain)),
                sealed=vault.seal(plain, _place(name, number, bound)),
                pools=bound,
            )
            kept = () if record is None else record.revisions[1 - REVISIONS_MAX :]
            resealed = (_resealed(vault, name, one, was) for one in kept)
            changed = EnvGroupRecord(revisions=(*resealed, made), pools=bound)
            if self._size(besides=name) + _bytes_of(changed) > ALL_BYTES_MAX:
                raise TooMuch(f"all groups together hold {ALL_BYTES_MAX} bytes at most: remove some first")
            fact = SecretsStored(group=name, revision=number, keys=made.keys)
            await self._records().keep(GROUP, name, changed, [fact], principal=by)
            return _shown(name, changed, vault)

    async def remove(self, name: str, by: str, *, force: bool = False) -> None:
        """Forget a group with all its revisions.

        Raises:
            SecretsError: Missing; InUse, unless `force`: a task that has yet to start needs it, or the set-up
                of a pool's machines.
            JournalFailing, JournalClosed: it was not removed.
        """
        async with self._turn:
            self._group(name)
            self._leaving.add(name)
            try:
                users = [] if force else self._uses.of_group(name)
                if users:
                    what = "tasks or pools" if len(users) > 1 else "task or pool"
                    text = f"group {name!r} is named by {len(users)} living {what}"
                    raise InUse(f"{text}: wait, end them, or remove it by force", tuple(users[:USERS_SHOWN]))
                await self._records().keep(GROUP, name, None, [SecretsRemoved(group=name)], principal=by)
            finally:
                self._leaving.discard(name)

    def values(self, pool: str, task_id: str, attempt: int, groups: Sequence[str]) -> GroupValues:
        """What an attempt is started with. See `EnvGroups.values`."""
        told = self._told.get((task_id, attempt), {})
        env: dict[str, str] = {}
        revisions: dict[str, int] = {}
        for name in groups:
            try:
                record = self._groups.get(name)
                if record is None:  # whoever reads events hears of no other
                    raise Missing(f"no group {name!r} of secrets")
                one = _revision(record, told.get(name))
                opened = self._open_revision(self._ring.vault(), name, record, one)
                if not (_is_for(record, pool) and _fits(one.pools or (), pool)):
                    raise Missing(f"group {name!r} is not for pool {pool!r} any more")
                env |= opened
            except SecretsError as error:
                raise GroupsUnavailable(str(error)) from error
            revisions[name] = one.revision
        self._note(env.values())
        self._told[task_id, attempt] = revisions
        self._told.move_to_end((task_id, attempt))
        if len(self._told) > TOLD_MAX:
            self._told.popitem(last=False)
        return GroupValues(env, revisions)

    def _open_revision(
        self, vault: Vault, name: str, record: EnvGroupRecord, one: EnvRevision | None = None
    ) -> dict[str, str]:
        """The values of a revision, the newest if none is given. Raises errors.Sealed.

        A group whose `pools` are not those that its newest revision is sealed to was changed by another hand.
        """
        one = record.revisions[-1] if one is None else one
        try:
            if record.revisions[-1].pools not in (None, record.pools):
                raise errors.Sealed(CHANGED)
            return vault.open(one.sealed, _place(name, one.revision, one.pools))
        except errors.Sealed as error:
            raise errors.Sealed(f"group {name!r} {error}") from error

    def _size(self, besides: str) -> int:
        return sum(_bytes_of(one) for name, one in self._groups.items() if name != besides)

    def _note(self, values: Any) -> None:
        """Have them hidden wherever they turn up; of a value of many lines each that is long enough."""
        for value in values:
            self._hide(value)
            if "\n" in value:
                for part in value.splitlines():
                    self._hide(part.strip())

    # --- credentials ------------------------------------------------------------------------------

    async def put_credential(
        self, name: str, *, hostname: str, user: str, password: str, by: str
    ) -> dict[str, Any]:
        """Keep a login, or change it.

        Raises:
            SecretsError: NoKey, TooMuch; InUse, another login is kept for this registry.
            JournalFailing, JournalClosed: it was not kept.
        """
        async with self._turn:
            vault = self._ring.vault()
            for other, one in self._credentials.items():
                if one.hostname == hostname and other != name:
                    raise InUse(
                        f"credential {other!r} is for {hostname} already: change that one, or remove it"
                    )
            if name not in self._credentials and len(self._credentials) >= CREDENTIALS_MAX:
                raise TooMuch(f"there are {CREDENTIALS_MAX} credentials: remove one first")
            self._note([password])
            sealed = vault.seal({"password": password}, _login_place(name, hostname, user))
            record = CredentialRecord(
                hostname=hostname, user=user, at=self._clock.now(), by=by, sealed=sealed
            )
            fact = CredentialStored(name=name, hostname=hostname)
            await self._records().keep(CREDENTIAL, name, record, [fact], principal=by)
            self._on_login()
            return _shown_login(name, record, vault)

    async def remove_credential(self, name: str, by: str, *, force: bool = False) -> None:
        """Forget a login.

        Raises:
            SecretsError: Missing; InUse, unless `force`: the image of a living pool is from there.
            JournalFailing, JournalClosed: it was not removed.
        """
        async with self._turn:
            record = self._credentials.get(name)
            if record is None:
                there = ", ".join(sorted(self._credentials)[:10]) or "none"
                raise Missing(f"no credential {name!r}: there are {there}")
            users = [] if force else self._uses.of_registry(record.hostname)
            if users:
                text = (
                    f"images of {len(users)} living pool{'s' * (len(users) > 1)} are from {record.hostname}"
                )
                raise InUse(f"{text}: remove credential {name!r} by force", tuple(users[:USERS_SHOWN]))
            await self._records().keep(CREDENTIAL, name, None, [CredentialRemoved(name=name)], principal=by)

    def login(self, server: str) -> Login | None:
        """The login for a registry. See `Logins.login`."""
        for name, one in self._credentials.items():
            if one.hostname == server:
                try:
                    place = _login_place(name, one.hostname, one.user)
                    password = self._ring.vault().open(one.sealed, place)["password"]
                except SecretsError as error:
                    raise ProviderError(Fault.CREDENTIALS, f"credential {name!r} {error}") from error
                self._note([password])
                return Login(server, one.user, password)
        return None

    # --- the key ----------------------------------------------------------------------------------

    async def begin(self) -> None:
        """At the start: say what can't be read, and encrypt anew what the key before encrypted.

        Raises JournalFailing (try again), JournalClosed.
        """
        if not (self._groups or self._credentials or self._ring.is_configured):
            return
        try:
            done = await self.rotate("config")
        except NoKey as error:
            log.error("no secret can be read or stored", why=str(error))
            return
        if done["unreadable"]:
            log.error(
                "secrets are encrypted with a key that is not ours", which=", ".join(done["unreadable"][:20])
            )
        if done["changed"]:
            log.info("encrypted anew with the newest key", count=done["changed"])

    def reread(self) -> list[str]:
        """Use the keys that the config names now; what is wrong with them, a line each: the old go on."""
        if not self._ring.is_configured:
            return []
        try:
            self._ring.reread()
        except NoKey as error:
            return [f"daemon.secrets_key: {error}"]
        return []

    async def rotate(self, by: str) -> dict[str, Any]:
        """Read the keys again, and encrypt with the newest all that is encrypted with another.

        Answers how many were changed, and what can't be decrypted with any key at hand. Each row is changed
        by itself: what was not reached is found the next time.

        Raises:
            NoKey: nothing was changed.
            JournalFailing, JournalClosed: some may be changed.
        """
        async with self._turn:
            vault = self._ring.reread()
            changed = 0
            for name, group in list(self._groups.items()):
                revisions = tuple(_resealed(vault, name, one, group.pools) for one in group.revisions)
                if revisions != group.revisions:
                    renewed = group.model_copy(update={"revisions": revisions})
                    await self._records().keep(GROUP, name, renewed, principal=by)
                    changed += 1
            for name, one in list(self._credentials.items()):
                place = _login_place(name, one.hostname, one.user)
                sealed = _renewed(vault, one.sealed, place, place)
                if sealed is not one.sealed:
                    login = one.model_copy(update={"sealed": sealed})
                    await self._records().keep(CREDENTIAL, name, login, principal=by)
                    changed += 1
            if changed:
                told = Administered(
                    action="rotate", detail=f"{changed} secrets encrypted with key {vault.key.id}"
                )
                await self._records().tell(told, principal=by)
        return {"key": vault.key.id, "changed": changed, "unreadable": self.unreadable()}


def _resealed(vault: Vault, name: str, one: EnvRevision, pools: tuple[str, ...]) -> EnvRevision:
    """A revision under the newest key, and bound to the group's `pools` if it was bound to none."""
    bound = pools if one.pools is None else one.pools
    sealed = _renewed(
        vault, one.sealed, _place(name, one.revision, one.pools), _place(name, one.revision, bound)
    )
    return one if sealed is one.sealed else one.model_copy(update={"sealed": sealed, "pools": bound})


def _renewed(vault: Vault, sealed: Sealed, place: Place, new_place: Place) -> Sealed:
    """The same with the newest key, in its new place; as it is when it is that, or can't be opened."""
    if sealed.key_id == vault.key.id and place == new_place:
        return sealed
    try:
        return vault.seal(vault.open(sealed, place), new_place)
    except errors.Sealed:
        return sealed


def _merged(before: Mapping[str, str], values: Mapping[str, str | None]) -> dict[str, str | None]:
    absent = [key for key, value in values.items() if value is None and key not in before]
    if absent:
        there = ", ".join(sorted(before)[:20]) or "none"
        raise Missing(f"no variable {absent[0]!r} to remove: there are {there}")
    return {**before, **values}


def _revision(record: EnvGroupRecord, number: int | None) -> EnvRevision:
    """The one of that number while it is kept, else the newest."""
    for one in record.revisions if number is not None else ():
        if one.revision == number:
            return one
    return record.revisions[-1]


def _is_for(record: EnvGroupRecord, pool: str) -> bool:
    return _fits(record.pools, pool)


def _fits(patterns: Sequence[str], pool: str) -> bool:
    return not patterns or any(fnmatchcase(pool, pattern) for pattern in patterns)


def _place(group: str, revision: int, pools: tuple[str, ...] | None) -> Place:
    """What a revision is sealed to; without pools as before there were any in it."""
    return (GROUP, group, revision) if pools is None else (GROUP, group, revision, "pools", *pools)


def _login_place(name: str, hostname: str, user: str) -> Place:
    return (CREDENTIAL, name, hostname, user)


def _bytes_of(record: EnvGroupRecord) -> int:
    return sum(len(one.sealed.data) for one in record.revisions)


def _shown(name: str, record: EnvGroupRecord, vault: Vault | None) -> dict[str, Any]:
    newest = record.revisions[-1]
    return {
        "group": name,
        "revision": newest.revision,
        "keys": list(newest.keys),
        "pools": list(record.pools),
        "at": newest.at,
        "by": newest.by,
        "readable": vault is not None and vault.can_open(newest.sealed),
    }


def _shown_login(name: str, record: CredentialRecord, vault: Vault | None) -> dict[str, Any]:
    return {
        "name": name,
        "hostname": record.hostname,
        "user": record.user,
        "at": record.at,
        "by": record.by,
        "readable": vault is not None and vault.can_open(record.sealed),
    }

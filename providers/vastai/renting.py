"""Renting an ask for a launch key: a create call is never repeated, and what it leaves behind is removed."""

from dataclasses import replace
from typing import Any

import structlog

from providers.errors import Fault, ProviderError
from providers.model import Handle, Order
from providers.vastai.api import Api, Refused
from providers.vastai.config import VastaiConfig
from providers.vastai.keys import Keys
from providers.vastai.market import Board
from providers.vastai.wire import create_body

# After these a create call has surely made nothing, unless the answer says so itself.
_MADE_NOTHING = (
    Fault.CAPACITY,
    Fault.QUOTA,
    Fault.THROTTLED,
    Fault.CREDENTIALS,
    Fault.FUNDS,
    Fault.REJECTED,
    Fault.NOT_SENT,
)
_log = structlog.get_logger("providers.vastai")


class Renting:
    """Makes machines out of asks. The caller sees to it that a key is rented for once at a time."""

    def __init__(self, name: str, config: VastaiConfig, api: Api, board: Board, keys: Keys) -> None:
        self._name, self._config = name, config
        self._api, self._board, self._keys = api, board, keys

    async def rent(self, order: Order) -> Handle:
        """Try asks until one is ours, or as many as may be tried have gone.

        Raises:
            ProviderError: as `Provider.launch` has it; unknown only when a create call left.
        """
        disk_gb = self._config.disk_gb if order.disk_gb is None else order.disk_gb
        password, login = self._login()
        gone: ProviderError | None = None
        for _ in range(self._config.tries_max):
            try:
                ask = await self._board.claim(order.offer, disk_gb, order.micro_usd_per_hour_max)
            except ProviderError as error:
                raise unsent(error) from error
            rentable = True
            try:
                price = ask.micro_usd(disk_gb)
                body = create_body(
                    order,
                    self._config,
                    provider=self._name,
                    disk_gb=disk_gb,
                    micro_usd=price,
                    bid=ask.bid,
                    login=login,
                )
                await self._api.turn("create")
                rentable = False
                ref = await self._create(order.key, ask.id, body, password)
                return Handle(provider=self._name, ref=ref, region=order.offer.region, zone=order.offer.zone)
            except ProviderError as error:
                rentable = error.fault not in (Fault.CAPACITY, Fault.UNKNOWN)
                if error.fault is not Fault.CAPACITY or not isinstance(error, Refused):
                    raise
                gone = error
            finally:
                if rentable:
                    self._board.give_back(ask)
                else:
                    self._board.gone(ask)
        assert gone is not None
        raise gone

    async def _create(self, key: str, ask: int, body: dict[str, Any], password: str) -> str:
        """One create call; `keys` knows afterwards whether its key may have a machine."""
        self._keys.sending(key)
        heard = False
        try:
            ref = str(await self._api.create(ask, body, (password,)))
            heard = True
        except Refused as refused:
            said = refused.refusal
            if said.new_contract is not None:
                heard = True
                await self._undo(key, str(said.new_contract))
                raise ProviderError(Fault.CAPACITY, refused.detail) from refused
            if said.fault is Fault.GONE:  # the ask, not the key's machine
                refused = Refused(f"create from ask {ask}", replace(said, fault=Fault.CAPACITY))
            heard = self._made_nothing(key, refused)
            raise refused from None
        except ProviderError as error:
            heard = self._made_nothing(key, error)
            raise
        finally:
            if not heard:  # also when it was cancelled
                self._keys.unheard(key)
        self._keys.made(key, ref)
        return ref

    def _made_nothing(self, key: str, error: ProviderError) -> bool:
        surely = error.fault in _MADE_NOTHING
        if surely:
            self._keys.nothing_made(key)
        return surely

    async def _undo(self, key: str, ref: str) -> None:
        """Destroy what a refused create has left: a contract that bills its disk [providers.md, 3].

        When that fails it stays the machine of its key: it has the label, and the sweep ends it.
        """
        self._keys.made(key, ref)
        try:
            await self._api.destroy(ref)
        except ProviderError as error:
            _log.warning(
                "a refused create left a contract that could not be destroyed yet",
                provider=self._name,
                contract=ref,
                key=key,
                error=str(error),
            )
            return
        self._keys.nothing_made(key)

    def _login(self) -> tuple[str, str | None]:
        """The registry's password, and all of its login as the vendor takes it."""
        registry = self._config.registry
        if registry is None:
            return "", None
        password = registry.password.read()
        return password, f"-u {registry.username} -p {password} {registry.server}"


def unsent(error: ProviderError) -> ProviderError:
    """The failure of a read that comes before a create: that was not sent, whatever became of the read."""
    if error.fault is not Fault.UNKNOWN:
        return error
    return ProviderError(Fault.NOT_SENT, error.detail, error.retry_after_s)

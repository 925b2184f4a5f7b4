"""What the clients ask a second time when a connection breaks, and what they leave to the user."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from controller.client import AsyncClient, Client, EverpoolError
from tests.controller.api.conftest import task

pytestmark = pytest.mark.anyio
NO_SECOND_TIME: dict[str, Callable[[Client], object]] = {
    "POST /v1/tokens": lambda everpool: everpool.create_token("ci"),
    "PUT /v1/secrets/db": lambda everpool: everpool.put_secret_group("db", {"A": "1"}),
    "POST /v1/secrets/db": lambda everpool: everpool.merge_secret_group("db", {"A": "1"}),
    "POST /v1/webhooks/chat/test": lambda everpool: everpool.webhook_test("chat"),
    "POST /v1/backup": lambda everpool: everpool.backup("/copy"),
}
HARMLESS: dict[str, Callable[[Client], object]] = {
    "GET /v1/pools": lambda everpool: everpool.pools(),
    "POST /v1/messages": lambda everpool: everpool.submit(task("t1")),
}


@contextmanager
def breaking() -> Iterator[tuple[str, list[str]]]:
    """A daemon that hears each request, and then lets the connection go; its URL, and what it heard."""
    heard: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def life() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                connection.settimeout(10)
                with connection:
                    heard.append(" ".join(connection.recv(65_536).decode().split(" ")[:2]))

        thread = threading.Thread(target=life, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", heard
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)


@pytest.mark.parametrize("route", NO_SECOND_TIME)
def test_what_may_have_been_done_is_not_asked_for_again(route: str) -> None:
    with breaking() as (url, heard), Client(url) as everpool:
        with pytest.raises(EverpoolError, match="it may be done: look before you ask for it again"):
            NO_SECOND_TIME[route](everpool)
        assert heard == [route]


@pytest.mark.parametrize("route", HARMLESS)
def test_what_changes_nothing_the_second_time_is(route: str) -> None:
    with breaking() as (url, heard), Client(url) as everpool:
        with pytest.raises(EverpoolError, match="broke") as broken:
            HARMLESS[route](everpool)
        assert heard == [route] * 2 and "may be done" not in broken.value.message


async def test_the_asynchronous_client_is_as_careful() -> None:
    with breaking() as (url, heard):
        async with AsyncClient(url) as everpool:
            with pytest.raises(EverpoolError, match="it may be done"):
                await everpool.create_token("ci")
            with pytest.raises(EverpoolError, match="broke"):
                await everpool.submit([task("t1"), task("")])
        assert heard == ["POST /v1/tokens", *["POST /v1/messages"] * 2]

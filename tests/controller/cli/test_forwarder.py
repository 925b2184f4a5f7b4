"""What the page's port lets pass."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cli.forwarder import NotPassed, passed

HOSTS = ("127.0.0.1:8000", "localhost:8000")
TOKEN = "evp_right"


def head(first: str, **fields: str) -> bytes:
    lines = [first, *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode()


def ask(first: str, **fields: str) -> str:
    return passed(head(first, **{"Host": HOSTS[0], **fields}), TOKEN, HOSTS).raw.decode()


def test_the_page_needs_no_token_and_the_rest_does() -> None:
    for path in ("/", "/web/app.js", "/web/views/pool.js?v=1", "/healthz"):
        assert ask(f"GET {path} HTTP/1.1").startswith(f"GET {path} HTTP/1.1\r\n")
    for path in ("/v1/pools", "/metrics", "/web/../v1/pools", "/web/%2e%2e/v1/pools", "//v1/pools", "/webs"):
        with pytest.raises(NotPassed) as refused:
            ask(f"GET {path} HTTP/1.1")
        assert refused.value.status == 401
        assert ask(f"GET {path} HTTP/1.1", Authorization=f"Bearer {TOKEN}")


def test_the_daemon_sees_the_token_and_closes_the_connection() -> None:
    raw = ask("GET /v1/pools HTTP/1.1", Authorization=f"Bearer {TOKEN}", Connection="keep-alive")
    assert f"Authorization: Bearer {TOKEN}\r\n" in raw
    assert "keep-alive" not in raw and raw.endswith("Connection: close\r\n\r\n")


@pytest.mark.parametrize(
    ("first", "fields", "status"),
    [
        ("GET /v1/pools HTTP/1.1", {"Authorization": "Bearer evp_wrong"}, 401),
        ("GET /v1/pools HTTP/1.1", {"Authorization": f"bearer {TOKEN}"}, 401),
        ("GET / HTTP/1.1", {"Authorization": "Bearer evp_wrong"}, 401),
        ("POST / HTTP/1.1", {}, 401),
        ("GET / HTTP/1.1", {"Host": "evil.example"}, 403),
        ("GET / HTTP/1.1", {"Origin": "http://evil.example"}, 403),
        ("POST /v1/messages HTTP/1.1", {"Transfer-Encoding": "chunked"}, 411),
        ("POST /v1/messages HTTP/1.1", {"Content-Length": "99999999999"}, 413),
        ("POST /v1/messages HTTP/1.1", {"Content-Length": "-1"}, 413),
        ("GET / HTTP/1.0", {}, 400),
        ("TRACE / HTTP/1.1", {}, 400),
        ("GET http://x/ HTTP/1.1", {}, 400),
    ],
)
def test_what_does_not_pass(first: str, fields: dict[str, str], status: int) -> None:
    with pytest.raises(NotPassed) as refused:
        ask(first, **fields)
    assert refused.value.status == status and TOKEN not in str(refused.value)


def test_no_second_header_slips_by() -> None:
    twice = head("GET /v1/pools HTTP/1.1", Host=HOSTS[0], Authorization=f"Bearer {TOKEN}")
    with pytest.raises(NotPassed):
        passed(twice + b"\r\nauthorization: Bearer other", TOKEN, HOSTS)
    with pytest.raises(NotPassed):
        passed(head("GET / HTTP/1.1", Host=HOSTS[0]) + b"\r\nAuthorization : Bearer x", TOKEN, HOSTS)


@given(st.binary(max_size=300))
def test_any_bytes_pass_or_are_refused(raw: bytes) -> None:
    with suppress(NotPassed):
        passed(raw, TOKEN, HOSTS)

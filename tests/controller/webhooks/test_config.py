"""What a config may say of a webhook, and what it is warned of."""

import pytest

from controller.config import check, parse, warnings

SECRET = 'secret = { file = "/etc/everpool/webhook" }'


def webhook(*lines: str) -> str:
    return "\n".join(["[webhooks.pager]", *lines])


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (('url = "https://h.example/x"',), "secret: is missing"),
        (('url = "https://u:p@h.example/x"', SECRET), "no user or password in a URL"),
        (('url = "https://h.example/x#y"', SECRET), "no #fragment"),
        (('url = "ftp://h.example/x"', SECRET), "url: "),
        (('url = "https://h.example/x"', SECRET, 'events = ["pool_redy"]'), "did you mean pool_ready?"),
        (
            ('url = "https://h.example/x"', SECRET, 'events = ["nothing*"]'),
            "GET /openapi.json names them all",
        ),
        (('url = "https://h.example/x"', 'secret = "hush"'), "a secret is not written down here"),
    ],
)
def test_what_is_wrong_is_said(lines: tuple[str, ...], problem: str) -> None:
    found = check(webhook(*lines), "f.toml")
    assert len(found) == 1
    assert problem in found[0]
    assert "hush" not in found[0]


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://h.example/x", True),
        ("http://10.0.0.1/x", True),
        ("https://h.example/x", False),
        ("http://localhost:1/x", False),
        ("http://127.0.0.2/x", False),
        ("http://[::1]:80/x", False),
    ],
)
def test_who_sends_in_the_clear_is_warned(url: str, warned: bool) -> None:
    config = parse(webhook(f'url = "{url}"', SECRET, 'events = ["*"]'), "f.toml")
    assert any("[webhooks.pager] sends events by http" in line for line in warnings(config)) == warned

"""Why no daemon answers, in words that say what to do."""

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.client_reach import not_reached, not_there, wrong_url

HOSTS = st.sampled_from(["localhost", "127.0.0.1", "lab.example", "[::1]"])
PORTS = st.integers(1, 65_535)


@given(st.sampled_from(["http", "https"]), HOSTS, PORTS, st.sampled_from(["", "/", "/behind/a/proxy"]))
def test_addresses_that_can_be_right_are_taken(scheme: str, host: str, port: int, path: str) -> None:
    assert wrong_url(f"{scheme}://{host}:{port}{path}") == ""


@given(HOSTS, PORTS)
def test_who_leaves_out_the_scheme_is_told_the_url(host: str, port: int) -> None:
    assert f"write http://{host}:{port}, or https://" in wrong_url(f"{host}:{port}")


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_is_refused_in_words(text: str) -> None:
    problem = wrong_url(text)
    assert problem or text.startswith(("http://", "https://"))
    assert problem != "" or not any(mark in text for mark in "?#@")


@given(st.text("abcdefgh", min_size=8, max_size=12))
def test_a_password_in_a_url_is_refused_and_not_repeated(password: str) -> None:
    problem = wrong_url(f"http://me:{password}@lab:7070")
    assert "--token-file" in problem and password not in problem


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "no scheme"),
        ("ftp://x:1", "begins with ftp://: write http://x:1"),
        ("/run/everpool/api.sock", "--socket"),
        ("unix:/run/x", "--socket"),
        ("http://", "names no host"),
        ("http://x:99999", "1 to 65535"),
        ("http://x:seven", "1 to 65535"),
        ("http://x:0", "port 0"),
        ("http://[::1", "is no URL"),
        ("http://x:1?a=b", "write http://x:1"),
    ],
)
def test_what_is_no_address(url: str, says: str) -> None:
    assert says in wrong_url(url)


def test_what_is_no_socket(tmp_path: Path) -> None:
    file, folder, closed = tmp_path / "file", tmp_path / "folder", tmp_path / "api.sock"
    file.write_text("")
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(closed))
    assert "is a file, not a daemon's socket" in not_there(str(file))
    assert "name the socket in it" in not_there(str(folder))
    assert f"try {closed}" in not_there(str(tmp_path))
    assert "start it with 'everpool serve'" in not_there(str(closed))
    assert "start one with 'everpool serve'" in not_there(str(tmp_path / "none"))
    assert "start one with 'everpool serve'" in not_there("api.sock")
    for host in ("127.0.0.1:7070", "lab.example:80", "localhost"):
        assert f"http://{host}" in not_there(host)


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("[Errno 111] Connection refused", "is 'listen' set"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)", "without TLS it is http://x:1"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "--ca-file"),
        ("[Errno -2] Name or service not known", "there is no host 'x'"),
    ],
)
def test_why_a_url_leads_to_no_daemon(said: str, says: str) -> None:
    assert says in not_reached("https://x:1", said)

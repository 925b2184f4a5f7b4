"""The page's files: what is served is what is shipped, to anybody, safely; and small."""

import fnmatch
import gzip
import hashlib
import json
import re
import tomllib
from pathlib import Path
from urllib.parse import quote

import httpx2 as httpx
import pytest

from controller.api.web import TYPES, assets, takes_gzip

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
WEB = ROOT / "controller" / "web"
PACKED_MAX = 80_000  # the issue lets 300 kB
RISKY = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function")
FOREIGN = (
    "../api/web.py",
    "..%2fapi%2fweb.py",
    "%2e%2e/__init__.py",
    "....//web.py",
    "/etc/passwd",
    quote("/etc/passwd", safe=""),
    "views",
    "views/",
    "vendor/../../config.py",
    "index.html%00.js",
    "",
    "nothing.js",
    "__pycache__",
)
OURS = sorted(path for path in assets() if not path.startswith("vendor/"))


def test_what_others_made_is_what_they_published() -> None:
    named = set()
    for library in json.loads((WEB / "vendor" / "manifest.json").read_text()):
        assert re.fullmatch(r"\d+\.\d+\.\d+", library["version"])
        named.add(library["licence_file"])
        assert "Permission is hereby granted" in (WEB / "vendor" / library["licence_file"]).read_text()
        for name, one in library["files"].items():
            named.add(name)
            assert hashlib.sha256((WEB / "vendor" / name).read_bytes()).hexdigest() == one["sha256"], name
    assert named | {"manifest.json"} == {path.name for path in (WEB / "vendor").iterdir()}


def test_every_file_of_the_page_is_served_and_shipped() -> None:
    there = {str(path.relative_to(WEB)) for path in WEB.rglob("*") if path.is_file()}
    assert set(assets()) == there
    globs = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for path in there:
        assert any(fnmatch.fnmatch(f"web/{path}", glob) for glob in globs["controller"]), path


def test_the_page_is_small() -> None:
    assert sum(len(asset.packed) for asset in assets().values()) < PACKED_MAX


def test_the_page_asks_nobody_else_and_has_nothing_inline() -> None:
    for path in OURS:
        text = (WEB / path).read_text()
        hosts = re.findall(r"(?:https?:)?//([a-z][\w.-]+\.[a-z]{2,})", text)
        assert set(hosts) <= {"www.w3.org"}, path  # the name of SVG; nobody asks there
        for risky in RISKY:
            assert risky not in text, (path, risky)
    html = (WEB / "index.html").read_text()
    assert not re.findall(r"<script(?![^>]*\bsrc=)", html)
    assert not re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:", html)


def test_modules_are_read_ahead_and_all_that_is_imported_is_there() -> None:
    html = (WEB / "index.html").read_text()
    preloaded = set(re.findall(r'modulepreload" href="/web/([^"]+)"', html))
    modules = {path for path in OURS if path.endswith(".js") and path != "theme.js"}
    assert preloaded | {"app.js"} == modules
    for path in modules:
        for imported in re.findall(r'^import [^;]*? from "([^"]+)";', (WEB / path).read_text(), re.M | re.S):
            assert (WEB / path).parent.joinpath(imported).resolve().is_file(), (path, imported)


async def test_bytes_and_headers(http: httpx.AsyncClient) -> None:
    for url in ("/", *(f"/web/{path}" for path in assets())):
        await check(http, url)


async def check(http: httpx.AsyncClient, url: str) -> None:
    name = url.removeprefix("/web/") if url != "/" else "index.html"
    plain = await http.get(url, headers={"Accept-Encoding": "identity"})
    assert plain.status_code == 200
    assert plain.content == (WEB / name).read_bytes()
    assert plain.headers["content-type"] == TYPES["." + name.rpartition(".")[2]]
    policy = plain.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert plain.headers["x-content-type-options"] == "nosniff"
    assert plain.headers["referrer-policy"] == "no-referrer"
    assert plain.headers["cache-control"] == "no-cache"
    assert plain.headers["vary"] == "Accept-Encoding"
    packed = await http.get(url, headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == plain.content  # the client unpacks
    assert int(packed.headers["content-length"]) == len(assets()[name].packed)
    again = await http.get(url, headers={"If-None-Match": f'"other", {plain.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    other = await http.get(url, headers={"If-None-Match": 'W/"other"'})
    assert other.status_code == 200
    head = await http.head(url, headers={"Accept-Encoding": "identity"})
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(plain.content)


def test_packed_forms_are_the_files() -> None:
    for path, asset in assets().items():
        assert gzip.decompress(asset.packed) == asset.body == (WEB / path).read_bytes()


async def test_nothing_else_can_be_had(http: httpx.AsyncClient) -> None:
    for name in FOREIGN:
        answer = await http.get(f"/web/{name}")
        assert answer.status_code == 404, name
        assert b"import" not in answer.content and b"root:" not in answer.content


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("", False),
        ("gzip", True),
        ("GZip;q=0.5, br", True),
        ("br, gzip;q=0", False),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0.000, *", False),
        ("identity", False),
        ("gzip ; q=0.05", True),
        ("x-gzip", False),
    ],
)
def test_who_takes_gzip(header: str, taken: bool) -> None:
    assert takes_gzip(header) is taken

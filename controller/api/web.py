"""The page for people: the files of `controller/web/`, as they are, to whoever asks.

The files hold no secret, so nobody needs a token for them; what they show they read from the API with the
token of whoever looks. All is read once, at the first request, and kept with its compressed form.
"""

import gzip
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from controller.api.answers import Problem

INDEX = "index.html"
TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".LICENSE": "text/plain; charset=utf-8",
}
POLICY = "; ".join(
    (
        "default-src 'self'",
        "base-uri 'none'",
        "object-src 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # text of the API can't become markup, even by mistake
        "trusted-types 'none'",
    )
)
HEADERS: Mapping[str, str] = {
    # Asked for again each time, and mostly answered by 304: an upgraded daemon never meets an old page.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Asset(NamedTuple):
    """One file of the page.

    Attributes:
        body, packed: as it is, and compressed by gzip.
        etag: of both forms; a weak one, as they are not the same bytes.
    """

    body: bytes
    packed: bytes
    etag: str
    media_type: str


@cache
def assets() -> Mapping[str, Asset]:
    """All files of the page by their path below `/web/`. Nothing else can be asked for."""
    return dict(_found(files("controller") / "web", ""))


def _found(directory: Traversable, prefix: str) -> list[tuple[str, Asset]]:
    found: list[tuple[str, Asset]] = []
    for entry in sorted(directory.iterdir(), key=lambda one: one.name):
        if entry.is_dir():
            found += _found(entry, f"{prefix}{entry.name}/")
            continue
        media_type = TYPES.get("." + entry.name.rpartition(".")[2])
        if media_type is not None and not entry.name.startswith("."):
            body = entry.read_bytes()
            etag = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
            found.append(
                (prefix + entry.name, Asset(body, gzip.compress(body, 9, mtime=0), etag, media_type))
            )
    return found


def routes() -> APIRouter:
    """The routes of the page. They are no part of the API that is described."""
    router = APIRouter(include_in_schema=False, default_response_class=Response)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def index(request: Request) -> Response:
        """The page."""
        return _answer(request, INDEX)

    @router.api_route("/web/{path:path}", methods=["GET", "HEAD"])
    async def file(request: Request, path: str) -> Response:
        """One of its files."""
        return _answer(request, path)

    return router


def _answer(request: Request, path: str) -> Response:
    asset = assets().get(path)
    if asset is None:
        raise Problem(404, f"the page has no file {path!r}")
    headers = {**HEADERS, "ETag": asset.etag}
    if _knows(request.headers.get("if-none-match", ""), asset.etag):
        return Response(status_code=304, headers=headers)
    if takes_gzip(request.headers.get("accept-encoding", "")):
        headers["Content-Encoding"] = "gzip"
        return Response(asset.packed, headers=headers, media_type=asset.media_type)
    return Response(asset.body, headers=headers, media_type=asset.media_type)


def _knows(header: str, etag: str) -> bool:
    shown = [one.strip() for one in header.split(",")]
    return "*" in shown or etag in shown or etag.removeprefix("W/") in shown


def takes_gzip(header: str) -> bool:
    """Whether an Accept-Encoding lets gzip be sent: it is named, or `*` is, and not with q=0."""
    shares: dict[str, bool] = {}
    for one in header.lower().split(","):
        coding, *parameters = (part.strip() for part in one.split(";"))
        weights = [part[2:].strip() for part in parameters if part.startswith("q=")]
        shares[coding] = not weights or weights[0].strip("0.") != ""
    return shares.get("gzip", shares.get("*", False))

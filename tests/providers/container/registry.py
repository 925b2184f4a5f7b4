"""A registry that hands out one image to one user: as little of the distribution API as engines ask for."""

import base64
import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes.controls import Environ, StartResponse

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG, LAYER = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar"


@dataclass
class Registry:
    """A WSGI application with one image, called `name`, of one layer.

    Attributes:
        layer: the layer's tar file.
        user, password: who may have it.
        slow_s: what the image is made of is told so late.
        refusal: status and code of all answers to who may have it.
        seen: Authorization headers that came.
    """

    layer: Path
    user: str
    password: str
    name: str = "boxes/python"
    slow_s: float = 0.0
    refusal: tuple[int, str] | None = None
    seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        digest = _digest(self.layer.read_bytes())
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest]},
        }
        self._config = json.dumps(config).encode()
        layer = {"mediaType": LAYER, "digest": digest, "size": self.layer.stat().st_size}
        about = {"mediaType": CONFIG, "digest": _digest(self._config), "size": len(self._config)}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": about, "layers": [layer]}
        self._manifest = json.dumps(manifest).encode()
        self._layer_digest = digest

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        """Answer one request."""
        authorization = environ.get("HTTP_AUTHORIZATION", "")
        if authorization:
            self.seen.add(authorization)
        expected = "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if authorization != expected:
            headers = [("WWW-Authenticate", 'Basic realm="boxes"'), ("Content-Type", "application/json")]
            start_response("401 Unauthorized", headers)
            error = {"code": "UNAUTHORIZED", "message": "authentication required"}
            return [json.dumps({"errors": [error]}).encode()]
        if self.refusal is not None:
            status, code = self.refusal
            start_response(f"{status} No", [("Content-Type", "application/json")])
            return [json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode()]
        return self._found(environ, start_response)

    def _found(self, environ: Environ, start_response: StartResponse) -> Any:
        path = environ["PATH_INFO"]
        known = {
            f"/v2/{self.name}/manifests/1": (MANIFEST, self._manifest),
            f"/v2/{self.name}/manifests/{_digest(self._manifest)}": (MANIFEST, self._manifest),
            f"/v2/{self.name}/blobs/{_digest(self._config)}": ("application/octet-stream", self._config),
            "/v2/": ("application/json", b"{}"),
        }
        if path == f"/v2/{self.name}/blobs/{self._layer_digest}":
            kind, data = "application/octet-stream", self.layer.read_bytes()
        elif path in known:
            kind, data = known[path]
            time.sleep(self.slow_s if kind == MANIFEST else 0)
        else:
            start_response("404 Not Found", [("Content-Type", "application/json")])
            error = {"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}
            return [json.dumps({"errors": [error]}).encode()]
        headers = [("Content-Type", kind), ("Content-Length", str(len(data)))]
        headers += [("Docker-Content-Digest", _digest(data))] if kind == MANIFEST else []
        start_response("200 OK", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [data]


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"

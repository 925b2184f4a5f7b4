"""The fake metadata servers, asked by the vendors' own clients and by hand."""

import email.utils
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.utils import InstanceMetadataFetcher, InstanceMetadataRegionFetcher

from tests.fakes.metadata import GceMetadata, Imds, MetadataServers
from tests.fakes.schemas import VARIABLE, schema_file

JUDGE = Path(__file__).parents[1] / "judges" / "google_metadata.py"
GOOGLE = {"Metadata-Flavor": "Google"}
TTL = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}


class Asking:
    """Plain requests to one server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.headers: dict[str, str] = {}

    def ask(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=20)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            self.headers = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def aws(self, path: str, token: str) -> tuple[int, str]:
        return self.ask("GET", f"/latest/meta-data/{path}", {"X-aws-ec2-metadata-token": token})

    def gce(self, path: str) -> tuple[int, str]:
        return self.ask("GET", f"/computeMetadata/v1/{path}", GOOGLE)


@contextmanager
def asking(app: Imds | GceMetadata) -> Iterator[Asking]:
    servers = MetadataServers()
    try:
        yield Asking(servers.start("m", app))
    finally:
        servers.close()
        assert app.controls.violations == []


def token_of(ask: Asking) -> str:
    status, token = ask.ask("PUT", "/latest/api/token", TTL)
    assert status == 200
    return token


# --- ec2


def test_botocore_gets_credentials_and_region_from_it() -> None:
    with asking(Imds(zone="eu-north-1b")) as ask:
        fetcher = InstanceMetadataFetcher(base_url=f"{ask.url}/", config={"ec2_metadata_v1_disabled": True})
        assert fetcher.retrieve_iam_role_credentials()["access_key"] == "ASIAFAKE"
        region = InstanceMetadataRegionFetcher(base_url=f"{ask.url}/")
        assert region.retrieve_region() == "eu-north-1"


def test_it_demands_a_token() -> None:
    clock = [1000.0]
    app = Imds(now=lambda: clock[0])
    with asking(app) as ask:
        assert ask.aws("instance-id", "")[0] == 401
        assert ask.aws("instance-id", "made up")[0] == 401
        assert ask.ask("PUT", "/latest/api/token", {})[0] == 400
        assert (
            ask.ask("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "21601"})[0] == 400
        )
        assert ask.ask("PUT", "/latest/api/token", {**TTL, "X-Forwarded-For": "1.2.3.4"})[0] == 403
        assert ask.ask("GET", "/latest/api/token", TTL)[0] == 405
        token = token_of(ask)
        assert ask.headers["x-aws-ec2-metadata-token-ttl-seconds"] == "60"
        assert ask.aws("instance-id", token) == (200, "i-1234567890abcdef0")
        clock[0] += 61
        assert ask.aws("instance-id", token)[0] == 401
        token = token_of(ask)
        app.expire_tokens()
        assert ask.aws("instance-id", token)[0] == 401


def test_a_notice_of_ec2_comes_moves_and_goes() -> None:
    app = Imds()
    app.clock_ahead_s = 300
    with asking(app) as ask:
        token = token_of(ask)
        paths = ("spot/instance-action", "spot/termination-time", "events/recommendations/rebalance")
        assert [ask.aws(path, token)[0] for path in paths] == [404, 404, 404]
        app.rebalance()
        assert json.loads(ask.aws(paths[2], token)[1]).keys() == {"noticeTime"}
        app.notice(120)
        told = json.loads(ask.aws(paths[0], token)[1])
        at = email.utils.parsedate_to_datetime(ask.headers["date"]).timestamp()
        deadline = time.mktime(time.strptime(told["time"], "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
        assert told["action"] == "terminate"
        assert ask.aws(paths[1], token)[1] == told["time"]
        assert 115 < deadline - at < 122
        assert at > time.time() + 290
        app.notice(60)
        assert json.loads(ask.aws(paths[0], token)[1])["time"] < told["time"]
        app.withdraw()
        assert [ask.aws(path, token)[0] for path in paths] == [404, 404, 404]


def test_its_paths_are_those_of_the_vendors_own_mock() -> None:
    known = schema_file("aemm-metadata-default-values.json")
    if known is None:
        assert os.environ.get("CI") != "true", f"{VARIABLE} is not set"
        pytest.skip(f"{VARIABLE} is not set")
    paths = set(json.loads(known.read_bytes())["metadata"]["paths"].values())
    app = Imds()
    app.notice()
    app.rebalance()
    with asking(app) as ask:
        token = token_of(ask)
        for folder in ("", "spot/", "events/recommendations/", "placement/"):
            for name in ask.aws(folder, token)[1].split():
                if not name.endswith("/"):
                    assert f"/latest/meta-data/{folder}{name}" in paths
        assert ask.aws("nothing", token)[0] == 404


# --- compute engine


def judged(url: str) -> tuple[int, dict[str, Any]]:
    ran = subprocess.run([sys.executable, str(JUDGE), url], capture_output=True, text=True, timeout=60)
    said: dict[str, Any] = json.loads(ran.stdout)
    return ran.returncode, said


def test_google_auth_gets_what_it_asks_for() -> None:
    with asking(GceMetadata()) as ask:
        code, said = judged(ask.url)
        assert said["failed"] == []
        assert len(said["checks"]) > 15
        assert code == 0


def test_google_auth_finds_what_is_wrong() -> None:
    app = GceMetadata(project="another")
    app.notice()
    with asking(app) as ask:
        code, said = judged(ask.url)
        assert said["failed"] == ["project id", "preempted", "waiting for a change"]
        assert code == 1


def test_it_demands_the_flavor_and_shows_it() -> None:
    with asking(GceMetadata()) as ask:
        path = "/computeMetadata/v1/instance/id"
        assert ask.ask("GET", path, {})[0] == 403
        assert "metadata-flavor" not in ask.headers
        assert ask.ask("GET", path, {**GOOGLE, "X-Forwarded-For": "1.2.3.4"})[0] == 403
        assert ask.ask("GET", path, GOOGLE)[0] == 200
        assert ask.headers["metadata-flavor"] == "Google"
        assert ask.ask("GET", "/computeMetadata/v1/instance/nothing", GOOGLE)[0] == 404


def test_a_change_is_waited_for() -> None:
    app = GceMetadata()
    with asking(app) as ask:
        assert ask.gce("instance/preempted") == (200, "FALSE")
        etag = ask.headers["etag"]
        wait = f"instance/preempted?wait_for_change=true&last_etag={etag}"
        assert ask.gce(f"{wait}&timeout_sec=0") == (200, "FALSE")
        heard: list[tuple[int, str]] = []
        waiting = threading.Thread(target=lambda: heard.append(Asking(ask.url).gce(wait)))
        waiting.start()
        app.maintenance()  # of another key
        app.notice()
        waiting.join(10)
        assert heard == [(200, "TRUE")]
        assert ask.gce(wait) == (200, "TRUE")  # it was missed: at once
        assert ask.headers["etag"] != etag
        assert ask.gce("instance/maintenance-event") == (200, "TERMINATE_ON_HOST_MAINTENANCE")
        app.withdraw()
        assert ask.gce("instance/preempted") == (200, "FALSE")


def test_what_is_planned_goes_wrong() -> None:
    app = GceMetadata()
    with asking(app) as ask:
        app.controls.fail_before("instance/id")
        app.controls.cut_before("instance/id")
        assert ask.gce("instance/id")[0] == 503
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            ask.gce("instance/id")
        assert ask.gce("instance/id")[0] == 200
        assert app.controls.calls["instance/id"] == 3

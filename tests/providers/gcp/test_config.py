"""What can be set, and what is said about what can't."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from providers.gcp.config import API_VERSION, GcpConfig
from tests.fakes.gcp.discovery import document

LEAST = {"project": "my-project", "regions": ["us-central1"]}


def test_a_project_and_a_region_are_enough() -> None:
    config = GcpConfig.model_validate(LEAST)
    assert config.base_url == "https://compute.googleapis.com/compute/v1"
    assert config.key is None


def test_the_version_is_that_of_the_document_it_was_tested_against() -> None:
    assert document("compute.v1").api_version == API_VERSION


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"regions": []}, "say where"),
        ({"project": "My Project"}, "project"),
        ({"regions": ["US"]}, "regions"),
        ({"disk_gb": 0}, "disk_gb"),
        ({"base_url": "compute.googleapis.com"}, "is no URL"),
        ({"labels": {"everpool-owner": "x"}}, "are ours"),
        ({"labels": {"Team": "x"}}, "labels"),
        ({"token_url": "http://127.0.0.1/token"}, "goes with key"),
        ({"key": {"file": "/a", "env": "B"}}, "give one of"),
        ({"bulk": 1}, "bulk"),
        ({"bulk": 51}, "bulk"),
        ({"ssh_user": "Root"}, "ssh_user"),
        ({"api_version": "newest"}, "api_version"),
        ({"preemption_notice_s": 0}, "preemption_notice_s"),
        ({"zone": ["us-central1-a"]}, "zone"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        GcpConfig.model_validate(LEAST | given)


def test_a_slash_at_the_end_of_an_endpoint_does_no_harm() -> None:
    config = GcpConfig.model_validate(LEAST | {"base_url": "http://127.0.0.1:8080/compute/v1/"})
    assert config.base_url == "http://127.0.0.1:8080/compute/v1"


def test_a_key_is_named_and_never_shown(tmp_path: Path) -> None:
    config = GcpConfig.model_validate(LEAST | {"key": {"file": str(tmp_path / "key.json")}})
    assert "key.json" in repr(config)

"""google-auth's metadata client judges the metadata server that guests of tests see."""

from tests.fakes.metadata import GceMetadata
from tests.fakes.serving import served
from tests.judges.judging import judged


def test_google_auth_takes_the_metadata_server_for_googles() -> None:
    metadata = GceMetadata()
    with served(metadata) as url:
        verdict = judged("google_metadata.py", url)
        metadata.close()
    assert verdict.failed == ()
    assert verdict.checks >= 15
    assert metadata.controls.violations == []
    assert metadata.controls.calls["instance/preempted"] >= 2, "it was asked, and not something else"

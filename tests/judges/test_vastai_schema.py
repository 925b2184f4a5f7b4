"""schemathesis over the fake vast.ai, by the vendor's own document as far as that is right."""

import json
from pathlib import Path

from tests.fakes.schemas import schema_file
from tests.fakes.serving import served
from tests.fakes.vastai.fake import API_KEY, FakeVastai
from tests.fakes.vastai.schema import NAME, loaded
from tests.judges.fuzzing import fuzzed

CALLS = {
    "/api/v0/bundles": {"post"},
    "/api/v0/asks/{id}": {"put"},
    "/api/v1/instances": {"get"},
    "/api/v0/instances/{id}": {"get", "put", "delete"},
    "/api/v0/instances/{id}/ssh": {"post"},
    "/api/v0/users/current": {"get"},
}


def test_what_the_document_allows_is_answered_and_the_rest_refused(tmp_path: Path) -> None:
    path = schema_file(NAME)
    assert path is not None
    document = dict(loaded(path))
    document["paths"] = {
        path: {name: one for name, one in document["paths"][path].items() if name in verbs | {"parameters"}}
        for path, verbs in CALLS.items()
    }
    schema = tmp_path / "vastai.json"
    schema.write_text(json.dumps(document))
    fake = FakeVastai()
    with served(fake) as url:
        told = fuzzed(schema, url, {"Authorization": f"Bearer {API_KEY}"}, examples=15)
    fake.close()
    assert told["operations"]["tested"] == sum(map(len, CALLS.values())), told

"""What is said of raw answers: no secret, whatever stands around it, and all the rest."""

import base64
import html
import json
import string
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from providers.redaction import HIDDEN, RAW_CHARS_MAX, log_unknown_answer, redacted

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCY"
PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\nAAAA\n-----END OPENSSH PRIVATE KEY-----"
# Brackets could be those of the mark that is put in its place.
SECRETS = st.text(st.characters(codec="utf-8", exclude_characters="[]"), min_size=4, max_size=40)
KNOWN = SECRETS.filter(lambda one: one not in HIDDEN)
TEXT = st.text(max_size=60)
NAMES = st.sampled_from(
    [
        "token",
        "access_token",
        "X-Auth-Token",
        "password",
        "PASSWD",
        "client_secret",
        "SecretAccessKey",
        "api_key",
        "apiKey",
        "x-api-key",
        "private_key",
        "host_key",
        "Authorization",
        "credentials",
        "X-Amz-Signature",
        "user_data",
        "UserData",
        "X-Registry-Auth",
        "Set-Cookie",
        "passphrase",
    ]
)
# Words of ordinary answers: no name of a secret, none of the signs that follow one.
WORDS = st.text(string.ascii_lowercase + string.digits + " -_./{}\"',<>?&", max_size=80).filter(
    lambda text: (
        not any(
            word in text
            for word in (
                "token",
                "passw",
                "pass",
                "secret",
                "key",
                "author",
                "cred",
                "sign",
                "data",
                "auth",
                "cookie",
            )
        )
        and "bearer" not in text
        and "basic" not in text
        and "ey" not in text
        and "ya29" not in text
    )
)


# --- secrets that are known -----------------------------------------------------------------------


@given(secret=KNOWN, before=TEXT, after=TEXT)
def test_a_known_secret_never_survives_whatever_stands_around_it(
    secret: str, before: str, after: str
) -> None:
    for raw in (f"{before}{secret}{after}", f"{before}{secret}{secret}{after}"):
        assert secret not in redacted(raw, [secret])
        assert secret not in redacted(raw.encode(errors="replace"), [secret])


@given(secret=KNOWN, name=TEXT, other=TEXT)
def test_a_known_secret_never_survives_in_json_xml_urls_and_headers(
    secret: str, name: str, other: str
) -> None:
    coded = base64.b64encode(secret.encode()).decode()
    forms = {
        json.dumps({name: [other, secret, {other: secret}]}): json.dumps(secret)[1:-1],
        json.dumps({name: f"{other}{secret}"}, ensure_ascii=False): json.dumps(secret, ensure_ascii=False)[
            1:-1
        ],
        f"<a><b>{html.escape(secret)}</b></a>": html.escape(secret),
        f'<a b="{html.escape(secret, quote=False)}"/>': html.escape(secret, quote=False),
        f"GET /x?{urlencode({'n': secret})}": quote_plus(secret),
        f"GET /{quote(secret, safe='')}/x": quote(secret, safe=""),
        f"X-Something: {coded}": coded.rstrip("="),
    }
    for raw, form in forms.items():
        said = redacted(raw, [secret])
        assert secret not in said and form not in said


@given(secrets=st.lists(KNOWN, min_size=2, max_size=4), joints=st.lists(TEXT, min_size=5, max_size=5))
def test_none_of_several_survives_though_one_be_part_of_another(
    secrets: list[str], joints: list[str]
) -> None:
    secrets.append(secrets[0] + secrets[1])
    raw = "".join(joint + secret for joint, secret in zip(joints, secrets, strict=False))
    said = redacted(raw, secrets)
    assert not any(secret in said for secret in secrets)


@pytest.mark.parametrize("where", [0, RAW_CHARS_MAX - 10, 4 * RAW_CHARS_MAX - 10, 10 * RAW_CHARS_MAX])
def test_the_cut_shows_no_part_of_one(where: int) -> None:
    for raw in (f"{'.' * where}{SECRET}", f"{'.' * where}{PEM}", f"{PEM}{'.' * where}{SECRET}"):
        said = redacted(raw, [SECRET])
        assert SECRET[:6] not in said and "b3BlbnNz" not in said
    said = redacted(f'{PEM * 300}{"." * where}{{"password": "{SECRET}"}}')
    assert SECRET[:6] not in said


def test_a_short_one_is_hidden_by_its_name_only() -> None:
    assert redacted("abc abc", ["abc", ""]) == "abc abc"
    assert redacted("pin=abc", ["abc"]) == "pin=abc"
    assert redacted("password=abc", ["abc"]) == f"password={HIDDEN}"


# --- secrets that are known by their name only ----------------------------------------------------

UNKNOWN = st.text(string.ascii_letters + string.digits + "/+=_.~-", min_size=8, max_size=40).filter(
    lambda one: (
        not one.startswith("=") and one not in HIDDEN and not any(c in one.lower() for c in ("hidden",))
    )
)


@given(name=NAMES, secret=UNKNOWN, space=st.sampled_from(["", " "]))
def test_the_value_of_a_field_with_a_secrets_name_is_hidden(name: str, secret: str, space: str) -> None:
    phrase = f"{secret} and {secret}"
    inner = json.dumps({name: phrase, "n": 1})
    for raw in (
        json.dumps({name: secret, "n": 1}),
        json.dumps({name: phrase, "n": 1}),
        json.dumps({name: f'{secret}"{secret}', "n": 1}),
        json.dumps({name: [secret, phrase], "n": 1}),
        json.dumps({name: {"value": secret}, "n": 1}),
        json.dumps({"detail": inner, "n": 1}),
        repr({name: secret, "n": 1}),
        f"<{name}>{phrase}</{name}><n>1</n>",
        f"<{name} type='x'><![CDATA[{phrase}]]></{name}><n>1</n>",
        f'<field {name}="{phrase}" n="1"/>',
        f"{name}:{space}{secret}\r\nn: 1",
        f"{name}:{space}Bearer {secret}\r\nn: 1",
        f"/path?{name}={secret}&n=1",
        f"run --{name}={secret} n=1",
        f"{name}='{phrase}' n=1",
    ):
        said = redacted(raw)
        assert secret not in said, raw
        assert "1" in said and "n" in said and name in said


@given(
    name=st.sampled_from(
        ["API_KEY", "WANDB_API_KEY", "HF_TOKEN", "DB_PASSWORD", "x-secret", "jupyter_token"]
    ),
    secret=UNKNOWN,
    before=st.sampled_from(["name", "key", "Name", "Key"]),
    again=st.integers(0, 3),
)
def test_the_value_of_a_pair_with_a_secrets_name_is_hidden(
    name: str, secret: str, before: str, again: int
) -> None:
    phrase = f"{secret} and {secret}"
    for shape in (
        [["A", "first"], [name, phrase], ["B", "last"]],
        [("A", "first"), (name, secret), ("B", "last")],
        {"env": [{before: name, "value": phrase}], "B": "last"},
        {"env": [{before: name, "type": "x", "n": 1, "Value": secret}], "B": "last"},
        {"env": [{"value": phrase, before: name}], "B": "last"},
        {"env": [{"value": f'{secret}"{secret}', "n": 1, before: name}], "B": "last"},
        {"env": {name: f'{secret}"{secret}'}, "B": "last"},
    ):
        raw = shape
        for _ in range(again):
            raw = json.dumps({"detail": raw})  # type: ignore[assignment]
        for text in (raw if isinstance(raw, str) else json.dumps(raw), repr(shape)):
            said = redacted(text)
            assert secret not in said, text
            assert name in said and "last" in said and HIDDEN in said
    element = f"<{before}>{name}</{before}> <Value>{phrase}</Value><B>last</B>"
    assert redacted(element) == f"<{before}>{name}</{before}> <Value>{HIDDEN}</Value><B>last</B>"


@given(secret=UNKNOWN, user=st.sampled_from(["bob", "bob@example.org"]))
def test_logins_to_registries_are_hidden(secret: str, user: str) -> None:
    coded = base64.b64encode(f"{user}:{secret}".encode()).decode()
    assert secret[1:] not in redacted(f"docker login -u {user} -p {secret} ghcr.io: failed")
    assert secret[1:] not in redacted(f"docker login --username {user} --password x{secret} ghcr.io")
    for fields in (
        {"auths": {"ghcr.io": {"auth": coded, "n": 1}}},
        {"image_login": f"-u {user} -p {secret} ghcr.io", "n": 1},
        {"n": 1, "cmd": f"-u {user} -p x{secret} ghcr.io"},
    ):
        for raw in (json.dumps(fields), json.dumps({"detail": json.dumps(fields)}), repr(fields)):
            said = redacted(raw)
            assert secret[1:] not in said and coded not in said, raw
            assert "1" in said and HIDDEN in said


@pytest.mark.parametrize(
    "raw",
    [
        PEM,
        "GET https://vendor.example/v1/x?alt=json&key=AIzaSyAAAA failed",
        "API key not valid: AIzaSyA1234567890abcdefghijklmnopqrstuv",
        json.dumps({"material": PEM}),
        PEM[:60],
        f"Authorization: Bearer {SECRET}",
        f"was called with bearer {SECRET} by",
        f"https://user:{SECRET.replace('/', '-')}@vendor.example/x",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
        "got ya29.a0AfH6SMBx-abcdefgh",
    ],
)
def test_what_is_a_secret_by_its_form_is_hidden(raw: str) -> None:
    said = redacted(raw)
    assert HIDDEN in said
    for part in ("AIzaSyA", "b3BlbnNz", SECRET, SECRET.replace("/", "-"), "eyJzdWIi", "a0AfH6"):
        assert part not in said


# --- all the rest ---------------------------------------------------------------------------------


@given(text=WORDS)
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert redacted(text, [SECRET]) == text


@pytest.mark.parametrize(
    "text",
    [
        '{"error": {"code": 403, "status": "PERMISSION_DENIED", "message": "Required permission"}}',
        "<Error><Code>InsufficientInstanceCapacity</Code><Message>none left</Message></Error>",
        "UnauthorizedOperation: You are not authorized to perform this operation.",
        '{"AccessKeyId": "AKIAIOSFODNN7EXAMPLE", "access_key_id": "AKIA"}',
        '{"machine_id": 7, "ssh_host": "1.2.3.4", "monkey": "a b"}',
        "Status 429: retry after 3 s",
        '{"key": "owner/pool/0/1/1", "value": "x"}',
        '{"Key": "everpool:key", "Value": "owner/pool/0/1/1"}',
        '[["EVERPOOL_MARKS", "cluster=c1 pool=p"], ["-p 22:22", "1"]]',
        "GET /v1/x?key=owner/pool/0&n=1",
        '{"error": "auth_error", "auth": null, "msg": "auth: Invalid user key"}',
        '["invalid_token", "expired", "revoked"]',
        "docker run -p 8080:80 -u root image",
    ],
)
def test_what_vendors_say_is_still_read(text: str) -> None:
    assert redacted(text) == text


def test_long_answers_are_cut_and_say_how_long_they_were() -> None:
    assert redacted("x" * RAW_CHARS_MAX) == "x" * RAW_CHARS_MAX
    assert redacted("x" * 50_000) == f"{'x' * RAW_CHARS_MAX} [50000 characters in all]"


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "token",
        '"',
        "\\",
        "<token",
        "://",
        "eyJ",
        "token: ",
        'token="',
        'token\\"="\\"',
        "token=[",
        "token={",
        '["token","',
        '["',
        '"value":"',
        '"value":"x",',
        '"name":"token",',
        '"value":"x","name":"',
        '\\"value\\":\\"',
        "<key>token",
        "-u a -p ",
        "-u ",
        "--",
        '"auth":"',
        "?key=AIza",
    ],
)
@pytest.mark.timeout(60)
def test_no_answer_takes_long(unit: str) -> None:
    raw = unit * (2_000_000 // len(unit))  # some 10 ms; what is quadratic would take hours
    assert len(redacted(raw, [SECRET, 'with "quotes" & more'])) < 2 * RAW_CHARS_MAX


@given(raw=st.binary(max_size=200))
def test_any_bytes_can_be_shown(raw: bytes) -> None:
    assert isinstance(redacted(raw), str)


def test_an_unknown_answer_is_logged_without_secrets() -> None:
    with capture_logs() as logs:
        raw = json.dumps({"code": "Odd", "token": "unheard-of", "echo": SECRET})
        log_unknown_answer("work", "launch", status=418, code="Odd", raw=raw, secrets=[SECRET])
    (line,) = logs
    assert (line["provider"], line["call"], line["status"], line["code"]) == ("work", "launch", 418, "Odd")
    assert line["log_level"] == "warning"
    assert line["raw"] == '{"code": "Odd", "token": "[hidden]", "echo": "[hidden]"}'

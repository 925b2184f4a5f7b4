"""What may be said of a vendor's raw answer: all of it, but the secrets."""

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

import structlog

RAW_CHARS_MAX = 2000
HIDDEN = "[hidden]"
SECRET_CHARS_MIN = 4  # a shorter one would black out ordinary words
# As much is looked at for names, so that an answer of megabytes costs no more than one of kilobytes.
_LOOKED_AT_CHARS = 4 * RAW_CHARS_MAX
_log = structlog.get_logger("providers")

_NAME = r"""(?: token | passw(?:or)?d | passphrase | secret | api[ _-]?key | access[_-]?key(?![_-]?id\b)
    | private[_-]?key | host[_-]?key | authorization | credential | signature | user[_-]?data | registry-auth
    | cookie | image[_-]?login ) [\w.-]{0,64}"""
_WHOLE_NAME = rf"[\w.-]{{0,64}}? {_NAME}"
# What is quoted ends with its quote; in JSON within a string, quotes are escaped.
_QUOTED = r"""(?: (?P<escaped> \\+["'] ) (?! \[hidden\] ) (?: (?! (?<! \\ ) (?P=escaped) ) . )*
    | (?P<quote> ["'] ) (?! \[hidden\] ) (?: (?! (?P=quote) ) (?: \\. | [^\\] ) )* )"""
_SPACE, _Q = r"\s{0,8}", r"""\\{0,64}["']"""
# Values of fields whose name says that they are secret, in JSON (also within a string), headers, shell words
# and query strings. One that is quoted ends with its quote, a list or an object with its bracket.
_NAMED = re.compile(
    rf"""(?isx)
    ( {_NAME} \\*["']? \s{{0,8}} [:=] \s{{0,8}} )
    (?! \\*["']? \[hidden\] )
    (?: (?P<escaped> \\+["'] ) (?: (?! (?<! \\ ) (?P=escaped) ) . )*
      | (?P<quote> ["'] ) (?: (?! (?P=quote) ) (?: \\. | [^\\] ) )*
      | \[ [^\]]* \]?
      | \{{ [^{{}}]* \}}?
      | (?: (?:bearer|basic) \s+ )? [^\s"'<>&,;\\}}\])]+ )
    """
)
_ELEMENT = re.compile(
    rf"(?isx) ( < [\w:.-]{{0,64}} {_NAME} (?: \s [^<>]* )? > ) (?! \[hidden\] ) (?: <!\[CDATA\[ )? [^<]+"
)
# A docker login: "auth" is its user and password. A word like any other, it has to be a field's name.
_AUTH = re.compile(rf"(?isx) ( {_Q} auth {_Q} {_SPACE} : {_SPACE} ) {_QUOTED}")
# ["NAME", "value"], as variables are told.
_PAIR = re.compile(
    rf"""(?isx) ( [\[(] {_SPACE} {_Q} {_WHOLE_NAME} {_Q} {_SPACE} , {_SPACE} ) {_QUOTED}
    (?= \\*["']? {_SPACE} (?: [\])] | \Z ) )"""
)
# {"name": "NAME", …, "value": "value"}, and the other way round.
_FIELD_OF_NAME = rf"""{_Q} (?: name | key | variable ) {_Q} {_SPACE} : {_SPACE} {_Q} {_WHOLE_NAME} {_Q}"""
_FIELD_OF_VALUE = rf"{_Q} value {_Q} {_SPACE} : {_SPACE}"
_NAME_VALUE = re.compile(
    rf"(?isx) ( {_FIELD_OF_NAME} {_SPACE} , [^{{}}]{{0,200}}? {_FIELD_OF_VALUE} ) {_QUOTED}"
)
_VALUE_NAME = re.compile(
    rf"(?isx) ( {_FIELD_OF_VALUE} ) {_QUOTED} (?= {_Q} {_SPACE} , [^{{}}]{{0,200}}? {_FIELD_OF_NAME} )"
)
_ELEMENTS = re.compile(
    rf"""(?isx) ( < (?P<tag> name | key ) > {_WHOLE_NAME} </ (?P=tag) > {_SPACE} < value > )
    (?! \[hidden\] ) [^<]+"""
)
# Of commands: docker login -u USER -p PASSWORD (a -p without a -u is a port), --password PASSWORD.
_LOGIN = re.compile(
    r"""(?x) ( (?<! [\w-] ) -u \s{1,8} [^\s"'\\]{1,256} \s{1,8} -p \s{1,8} ) (?! \[hidden\] ) [^\s"'\\]+"""
)
_OPTION = re.compile(
    r"""(?ix) ( -- [\w-]{0,32}? (?: password | passwd | token | secret | api-key ) \s{1,8} )
    (?! \[hidden\] | - ) [^\s"'\\]+"""
)
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{8,}")
_USERINFO = re.compile(r"(://[^/\s:@\"']{1,256}:)[^/\s@\"']{1,4096}(?=@)")
_IN_QUERY = re.compile(r"(?i)([?&]key=)AIza[\w-]*")  # a `key` is a secret when it is one of Google's
_TOKEN = re.compile(
    r"\beyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)?|\bya29\.[\w.-]{8,}|\bAIza[\w-]{30,}"
)  # a JWT; Google's


def redacted(raw: str | bytes, secrets: Iterable[str] = ()) -> str:
    """The text without secrets, cut to a few thousand characters.

    Args:
        raw: a vendor's answer, or an error's text.
        secrets: values that we know to be secret, wherever they stand and however they are escaped. Those of
            fewer than four characters are hidden by their field's name only.
    """
    text = raw.decode(errors="replace") if isinstance(raw, bytes) else raw
    size = len(text)
    for form in sorted({form for one in secrets for form in _forms(one)}, key=len, reverse=True):
        text = text.replace(form, HIDDEN)
    text = _PEM.sub(HIDDEN, text)[:_LOOKED_AT_CHARS]
    text = _USERINFO.sub(rf"\1{HIDDEN}", text)
    for pattern in (_ELEMENT, _ELEMENTS, _LOGIN, _OPTION, _IN_QUERY):
        text = pattern.sub(rf"\1{HIDDEN}", text)
    for pattern in (_AUTH, _PAIR, _NAME_VALUE, _VALUE_NAME, _NAMED):
        text = pattern.sub(_hide, text)
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    text = _TOKEN.sub(HIDDEN, text)
    return text if len(text) <= RAW_CHARS_MAX else f"{text[:RAW_CHARS_MAX]} [{size} characters in all]"


def _forms(secret: str) -> Iterator[str]:
    """A secret as it may stand in JSON, XML, a URL, or encoded as a whole."""
    if len(secret) < SECRET_CHARS_MIN:
        return
    yield secret
    yield from (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
    yield from (html.escape(secret), html.escape(secret, quote=False))
    body = secret.encode(errors="surrogateescape")  # as the environment's variables are read
    yield from (quote(body, safe=""), quote(body), quote_plus(body))
    for encoded in (base64.b64encode(body), base64.urlsafe_b64encode(body)):
        yield encoded.decode().rstrip("=")


def _hide(found: re.Match[str]) -> str:
    return f"{found[1]}{found['escaped'] or found['quote'] or ''}{HIDDEN}"


def log_unknown_answer(
    provider: str, call: str, *, status: int | str, code: str, raw: str | bytes, secrets: Iterable[str] = ()
) -> None:
    """Put an answer that no rule of ours knows into the log, so that a rule can be written for it."""
    _log.warning(
        "a provider answered what we do not know: taken as an unknown outcome",
        provider=provider,
        call=call,
        status=status,
        code=code,
        raw=redacted(raw, secrets),
    )

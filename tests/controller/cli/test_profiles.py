"""Which daemon is talked to: flags, environment, profiles, config; and the file of profiles."""

import json
import stat
from pathlib import Path

import pytest

from controller.cli.addressing import Where, environment, resolved
from controller.cli.codes import CliError
from controller.cli.profiles_file import Profile, Profiles, added, read, removed
from tests.controller.cli.running import Face

LAB = '[profile.lab]\nurl = "https://lab:1"\ntoken_file = "/t"\npool = "web"\n[profile.own]\nsocket = "/s"\n'


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "profiles.toml"
    monkeypatch.setenv("EVERPOOL_PROFILES", str(path))
    for name in ("SOCKET", "URL", "PROFILE", "ADDRESS", "TOKEN", "TOKEN_FILE", "CA_FILE"):
        monkeypatch.delenv(f"EVERPOOL_{name}", raising=False)
    path.write_text(f'default-profile = "own"\n{LAB}')
    path.chmod(0o600)
    return path


def address(*layers: Where) -> str:
    return resolved((*layers, environment())).address


def test_flags_count_more_than_the_environment_that_more_than_profiles(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert address() == "/s"  # the default profile
    monkeypatch.setenv("EVERPOOL_PROFILE", "lab")
    assert address() == "https://lab:1"
    monkeypatch.setenv("EVERPOOL_SOCKET", "/env")
    assert address() == "/env"
    assert address(Where(profile="lab")) == "https://lab:1"
    assert address(Where(url="http://x"), Where(profile="lab")) == "http://x"
    monkeypatch.delenv("EVERPOOL_SOCKET")
    monkeypatch.delenv("EVERPOOL_PROFILE")
    monkeypatch.setenv("EVERPOOL_ADDRESS", "http://elsewhere")
    assert address() == "http://elsewhere"


def test_a_token_goes_to_its_own_daemon_only(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERPOOL_TOKEN_FILE", "/env-token")
    assert resolved((Where(profile="lab"), environment())).token_file == "/t"
    assert resolved((Where(url="http://x"), environment())).token_file is None
    assert resolved((Where(profile="lab", token_file=Path("/mine")), environment())).token_file == "/mine"
    assert resolved((Where(profile="own"), environment())).shown_token() is None


def test_an_address_that_is_none_is_refused_whoever_says_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CliError, match=r"--url 'lab:7070' has no scheme: write http://lab:7070"):
        address(Where(url="lab:7070"))
    monkeypatch.setenv("EVERPOOL_URL", "lab:7070")
    with pytest.raises(CliError, match="EVERPOOL_URL 'lab:7070' has no scheme"):
        address()


def test_suggested_commands_lead_to_the_same_daemon(file: Path) -> None:
    assert resolved((Where(profile="lab"), environment())).flags == " -p lab"
    assert resolved((Where(socket=Path("/a b")), environment())).flags == " --socket '/a b'"
    assert resolved((environment(),)).flags == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[profile.x]\n", "say either `socket` (a path) or `url`"),
        ('[profile.x]\nurl = "x"\n', "write http://x, or https://"),
        ('[profile.x]\nurl = "http://x"\ntokn = "y"\n', "did you mean 'token'?"),
        ('[profile.x]\nurl = "http://x"\ntoken = 5\n', "token has to be text"),
        ('[profile.x]\nurl = "http://x"\ntoken = "a"\ntoken_file = "b"\n', "either `token` or `token_file`"),
        ('[profile.x]\nsocket = "/s"\ntoken = "a"\n', "a socket needs no token"),
        ('defalt-profile = "x"\n', "did you mean 'default-profile'?"),
        ('default-profile = "y"\n[profile.x]\nsocket = "/s"\n', "no profile 'y'"),
        ("[profile.'a b']\nsocket = '/s'\n", "is no name"),
        ("profile = 3\n", "has to be tables"),
        ("[profile", "profiles.toml: "),
    ],
)
def test_a_file_that_is_wrong(file: Path, text: str, says: str) -> None:
    file.write_text(text)
    with pytest.raises(CliError) as error:
        read()
    assert says in " ".join((str(error.value), *error.value.detail))


def test_a_token_that_others_may_read_is_refused(file: Path) -> None:
    file.chmod(0o644)
    assert set(read().profiles) == {"lab", "own"}  # there is no token in it
    file.write_text('[profile.x]\nurl = "http://x"\ntoken = "hush"\n')
    with pytest.raises(CliError, match="chmod 600") as error:
        read()
    assert "hush" not in str(error.value)


def test_what_is_kept_is_read_again(file: Path) -> None:
    kept = added(Profiles(file), Profile(name="a.b", url="https://x", token='q"\\'), is_default=False)
    kept.keep()
    assert read() == kept and kept.default == "a.b"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    removed(kept, "a.b").keep()
    assert read() == Profiles(file)


def test_the_commands(face: Face) -> None:
    del face.env["EVERPOOL_SOCKET"]
    file = face.directory / ".config" / "everpool" / "profiles.toml"
    assert face("profile", "list").code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = face.directory / "key"
    secret.write_text("hush-hush\n")
    made = face(
        "profile", "add", "lab", "--url", "http://127.0.0.1:1", "--token-file", str(secret), "--pool", "w"
    )
    assert made.code == 0 and "the default one" in made.out
    assert "all commands go to http://127.0.0.1:1 from now on" in made.err and "warning" not in made.err
    assert face("profile", "add", "lab", "--socket", "/s").code == 5
    second = face("profile", "add", "two", "--socket", str(face.socket))
    assert second.code == 0 and "from now on" not in second.err
    assert f"nothing is at {face.socket} now" in second.err
    listed = face("profile", "list", "--json").json
    assert [(one["name"], one["default"]) for one in listed] == [("lab", True), ("two", False)]
    away = face("ps")
    assert (away.code, "http://127.0.0.1:1" in away.err) == (3, True)
    other = face("-p", "two", "ps")
    assert (other.code, str(face.socket) in other.err) == (3, True)
    near = face("ps", "-p", "twoo")
    assert (near.code, "did you mean 'two'?" in near.err) == (2, True)
    lacking = face("profile", "add", "far", "--url", "https://far:1", "--token-file", "/nowhere")
    assert lacking.code == 0 and "warning: --token-file /nowhere is not there" in lacking.err
    bare = face("profile", "add", "far", "--url", "https://far:1", "--replace")
    assert bare.code == 0 and "a URL needs a token" in bare.err
    assert face("profile", "rm", "far").code == 0
    assert face("profile", "use").code == 2
    assert face("profile", "use", "--none").code == 0
    assert not any(one["default"] for one in face("profile", "list", "--json").json)
    assert face("profile", "use", "two").code == 0
    assert face("profile", "show", "--json").json["name"] == "two"
    no_pool = face("explain")
    assert (no_pool.code, "profile 'two' has none" in no_pool.err) == (2, True)
    assert face("profile", "rm", "two").code == 0
    assert "hush" not in file.read_text() + json.dumps(face("profile", "show", "lab", "--json").json)

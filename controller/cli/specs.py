"""From what a user types to the spec of a pool or a task."""

import base64
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from actors.spec import FILES_BYTES_MAX, FilePut, PoolSpec, TaskSpec
from controller.cli.codes import USAGE, CliError
from controller.config_errors import dotted, problems_of

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)?")
M = TypeVar("M", bound=BaseModel)
_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


def seconds(text: str) -> float:
    """Seconds in "90", "1.5h", "1h30m".

    Raises:
        CliError: it is no duration.
    """
    total, end = 0.0, 0
    parts = list(_DURATION.finditer(text.strip()))
    for part in parts:
        if part.start() != end or (not part[2] and len(parts) > 1):
            break
        total, end = total + float(part[1]) * _UNITS[part[2] or ""], part.end()
    if not parts or end != len(text.strip()):
        raise CliError(USAGE, f"{text!r} is no duration: write seconds, or such as 90s, 15m, 8h, 1h30m")
    return total


def read_spec(path: Path) -> dict[str, Any]:
    """A pool's spec from a TOML or JSON file.

    Raises:
        CliError: it can't be read as a table.
    """
    try:
        text = path.read_text()
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise CliError(USAGE, f"{path} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, not JSON
        raise CliError(USAGE, f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise CliError(USAGE, f"{path}: has to hold one table (or object) with the keys of a pool")
    if isinstance(pools := found.get("pools"), dict):
        names = ", ".join(sorted(pools)) or "none"
        text = f"{path} is a daemon's config, with pools of its own: {names}"
        more = "a spec has the keys of one pool, without [pools.NAME] above them"
        raise CliError(USAGE, text, [more, f"the config is for `everpool serve --config {path}`"])
    return found


def apply_sets(spec: dict[str, Any], sets: Sequence[str]) -> None:
    """Put each "key=value" into the spec; keys have dots, values are read as TOML, else as text.

    Raises:
        CliError: one is not key=value, or its key goes through something that is no table.
    """
    for entry in sets:
        key, equals, text = entry.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise CliError(USAGE, f"--set {entry!r}: write key=value, such as image.env.LANG=C")
        here = spec
        for place, part in enumerate(parts[:-1]):
            inner = here.get(part)
            if inner is None:
                inner = here[part] = {}
            if not isinstance(inner, dict):
                raise CliError(USAGE, f"--set {entry!r}: {'.'.join(parts[: place + 1])} is no table")
            here = inner
        here[parts[-1]] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except tomllib.TOMLDecodeError:
        return text


def pool_spec(
    given: Mapping[str, Any],
    *,
    providers: Sequence[str] = (),
    nodes: int | None = None,
    slots: int | None = None,
    buffer: int | None = None,
    steps: Sequence[str] = (),
    sets: Sequence[str] = (),
) -> PoolSpec:
    """The spec in `given` with what options say on top.

    Raises:
        CliError: with all that is wrong with it.
    """
    spec = json.loads(json.dumps(dict(given), default=str))
    if providers:
        spec["provider"] = list(providers)
    spec.setdefault("provider", ["local"])
    spec["nodes"] = _bounds(spec.get("nodes"))
    if nodes is not None and isinstance(spec["nodes"], dict):
        spec["nodes"]["desired"] = nodes
    worker = {"concurrency": slots, "buffer": buffer}
    chosen = {key: value for key, value in worker.items() if value is not None}
    if chosen:
        before = spec.get("worker")
        spec["worker"] = {**(before if isinstance(before, dict) else {}), **chosen}
    if steps:
        image = spec.setdefault("image", {})
        if not isinstance(image, dict):
            raise CliError(USAGE, "image: has to be a table")
        image["steps"] = [_step(step) for step in steps]
    apply_sets(spec, sets)
    return validated(PoolSpec, spec)


def _bounds(nodes: Any) -> Any:
    """A size in one of its shorter forms, as a table."""
    match nodes:
        case None:
            return {"desired": 1}
        case int():
            return {"desired": nodes}
        case [desired, most]:
            return {"desired": desired, "max": most}
        case _:
            return nodes


def _step(text: str) -> dict[str, str]:
    phase, equals, run = text.partition("=")
    if not equals:
        raise CliError(USAGE, f"--step {text!r}: write name=command")
    return {"phase": phase.strip(), "run": run}


def validated(model: type[M], raw: Any) -> M:
    """`raw` as a model. Raises CliError with all that is wrong."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = []
        for problem in problems_of(error, model, ()):
            where = dotted(problem.location)
            lines.append(problem.text if problem.whole or not where else f"{where}: {problem.text}")
        raise CliError(USAGE, lines[0], lines[1:]) from error


def environment(entries: Sequence[str]) -> dict[str, str]:
    """Variables from "KEY=VALUE". Raises CliError."""
    found = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals:
            raise CliError(USAGE, f"--env {entry!r}: write KEY=VALUE")
        found[key] = value
    return found


def puts(entries: Sequence[str]) -> tuple[FilePut, ...]:
    """Files to put before a task, from "LOCAL[:REMOTE]"; a directory means all files in it.

    Raises:
        CliError: a file can't be read, or all are too much.
    """
    found: list[FilePut] = []
    total = 0
    for entry in entries:
        local, _, remote = entry.partition(":")
        path = Path(local)
        target = PurePosixPath(remote or path.name or "input")
        pairs = [(path, target)]
        if path.is_dir():
            inside = sorted(one for one in path.rglob("*") if one.is_file())
            pairs = [(one, target / one.relative_to(path).as_posix()) for one in inside]
        for source, place in pairs:
            try:
                data = source.read_bytes()
                mode = source.stat().st_mode & 0o777
            except OSError as error:
                raise CliError(USAGE, f"--put {entry!r}: {source} can't be read: {error.strerror}") from error
            total += len(data)
            if total > FILES_BYTES_MAX:
                raise CliError(USAGE, f"--put: the files have more than {FILES_BYTES_MAX // 2**20} MiB")
            raw = {"path": str(place), "data": base64.b64encode(data).decode(), "mode": mode}
            found.append(validated(FilePut, raw))
    return tuple(found)


def fetches(entries: Sequence[str]) -> dict[str, Path]:
    """Where fetched files go, by their path on the machine, from "PATH[:LOCAL]"."""
    found = {}
    for entry in entries:
        remote, _, local = entry.partition(":")
        found[remote] = Path(local or PurePosixPath(remote).name)
    return found


def task_spec(command: Sequence[str], *, shell: bool, **fields: Any) -> TaskSpec:
    """The spec of a task; fields that are None keep their defaults.

    Raises:
        CliError: with all that is wrong with it.
    """
    if not command:
        raise CliError(USAGE, "no command: write it last, after `--`")
    raw: dict[str, Any] = {key: value for key, value in fields.items() if value is not None}
    raw |= {"shell": " ".join(command)} if shell else {"argv": list(command)}
    return validated(TaskSpec, raw)

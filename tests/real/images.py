"""Images for engines that reach no registry: made of the running system's own files, kept between runs.

`python` has this interpreter, its standard library and the tools that tasks of tests use; `bare` has the
tools only; `old` has a `python3` that says it is 3.6.
"""

import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

CACHE_VARIABLE = "EVERPOOL_TEST_CACHE"
TOOLS = (
    "sh cat chmod cp dirname echo env false head id ls mkdir mv pwd rm seq sleep stat tail test touch true wc"
).split()
LEFT_OUT = {"test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "__pycache__"} | {
    "site-packages",
    "dist-packages",
}
MERGED = ("bin", "lib", "lib64", "sbin")  # are links to what is below usr, in every image of ours
# Does what our ways in ask of an interpreter (`-I -S -c PROGRAM ...`), as far as that needs no Python.
OLD_PYTHON = b"""#!/bin/sh
case "$4" in
    *execvp*) shift 4; echo $$; exec "$@" ;;
    *version_info*) echo 3 6 15 ;;
    *) exec sleep 1000 ;;
esac
"""
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"


def cache() -> Path:
    """Where images are kept: $EVERPOOL_TEST_CACHE, or a directory of the user's cache."""
    named = os.environ.get(CACHE_VARIABLE)
    place = Path(named) if named else Path.home() / ".cache" / "everpool-tests"
    place.mkdir(parents=True, exist_ok=True)
    return place


def image_file(kind: str) -> Path:
    """The root file system of an image as a tar file; it is made when it is not there yet."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    path = cache() / f"image-4-{kind}-{version}.tar"
    if not path.exists():
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{kind}-", delete=False) as draft:
            with tarfile.open(fileobj=draft, mode="w") as tar:
                _Image(tar).fill(kind)
        os.rename(draft.name, path)
    return path


class _Image:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._there: set[str] = set()

    def fill(self, kind: str) -> None:
        """Write everything."""
        for name in MERGED:
            self._link(f"/{name}", f"usr/{name}")
        for name, mode in (("/tmp", 0o1777), ("/var/tmp", 0o1777), ("/root", 0o755), ("/etc", 0o755)):
            self._directory(name, mode)
        self._bytes("/etc/passwd", PASSWD)
        self._bytes("/etc/group", b"root:x:0:\nnogroup:x:65534:\n")
        found = {tool: shutil.which(tool) for tool in TOOLS}
        paths = {tool: Path(path).resolve() for tool, path in found.items() if path is not None}
        for tool, path in paths.items():
            self._file(f"/usr/bin/{tool}", path)
        self._libraries(paths.values())
        if kind == "python":
            self._python()
        elif kind == "old":
            self._bytes("/usr/bin/python3", OLD_PYTHON, 0o755)

    def _python(self) -> None:
        program = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
        library = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
        self._file(str(program), program)
        if str(program) != "/usr/bin/python3":
            self._link("/usr/bin/python3", str(program))
        modules = []
        for root, directories, files in os.walk(library):
            directories[:] = [
                one for one in directories if one not in LEFT_OUT and not one.startswith("config-")
            ]
            for name in files:
                path = Path(root, name)
                self._file(str(path), path)
                if path.suffix == ".so":
                    modules.append(path)
        self._libraries([program, *modules])

    def _libraries(self, programs: Iterable[Path]) -> None:
        ran = subprocess.run(["ldd", *programs], capture_output=True, text=True)
        for path in sorted(set(re.findall(r"(/\S+) \(0x", ran.stdout))):
            self._file(path, Path(path).resolve())

    def _file(self, where: str, path: Path) -> None:
        self._bytes(where, path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644)

    def _bytes(self, where: str, data: bytes, mode: int = 0o644) -> None:
        if (entry := self._entry(where, mode)) is not None:
            entry.size = len(data)
            self._tar.addfile(entry, io.BytesIO(data))

    def _link(self, where: str, target: str) -> None:
        if (entry := self._entry(where, 0o777)) is not None:
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            self._tar.addfile(entry)

    def _directory(self, where: str, mode: int) -> None:
        if (entry := self._entry(where, mode)) is not None:
            entry.type = tarfile.DIRTYPE
            self._tar.addfile(entry)

    def _entry(self, where: str, mode: int) -> tarfile.TarInfo | None:
        name = where.lstrip("/")
        first, slash, _ = name.partition("/")
        name = f"usr/{name}" if slash and first in MERGED else name
        if name in self._there:
            return None
        self._there.add(name)
        entry = tarfile.TarInfo(name)
        entry.mode = mode
        return entry

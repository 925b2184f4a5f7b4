#!/bin/sh
# Shows everpool at work on this machine. Needs Python 3.11 or newer, and the network for the first installation.
#
#   sh deploy/demo.sh [arguments of `everpool demo`]
#
# EVERPOOL_VENV    where to install (default: .venv-demo in this checkout)
# EVERPOOL_PYTHON  which Python to use (default: the first that is new enough)
set -eu

say() { printf '%s\n' "$*" >&2; }
fail() { say "demo: $*"; exit 2; }

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
venv=${EVERPOOL_VENV:-$root/.venv-demo}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

python=
for candidate in ${EVERPOOL_PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if command -v "$candidate" >/dev/null && new_enough "$candidate"; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    found=$(python3 --version 2>/dev/null || echo 'no python3')
    fail "Python 3.11 or newer is needed, and there is $found: install one, or name it in EVERPOOL_PYTHON"
fi
[ "$(uname -s)" = Linux ] || fail "the daemon runs on Linux, and this is $(uname -s)"

log=$(mktemp "${TMPDIR:-/tmp}/everpool-install.XXXXXX")
copy=$(mktemp -d "${TMPDIR:-/tmp}/everpool-source.XXXXXX")
trap 'rm -rf "$copy" "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

installed() {  # runs an installation step; its output is shown only when it fails
    "$@" >"$log" 2>&1 || { cat "$log" >&2; return 1; }
}

if ! [ -x "$venv/bin/python" ] || ! new_enough "$venv/bin/python"; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    say "Making a virtual environment in $venv (Python $version)"
    if "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        installed "$python" -m venv --clear "$venv" || fail "it can't be made: see above"
    elif command -v uv >/dev/null; then
        installed uv venv --quiet --clear --seed --python "$python" "$venv" || fail "it can't be made: see above"
    elif "$python" -m virtualenv --version >/dev/null 2>&1; then
        installed "$python" -m virtualenv --clear "$venv" || fail "it can't be made: see above"
    else
        fail "this Python can't make virtual environments. Install what it lacks, then try again:
  Debian, Ubuntu:  apt-get install python$version-venv   (or python3-venv)
  Alpine:          apk add python3 py3-pip
  others:          python3 -m pip install --user virtualenv"
    fi
    printf '*\n' >"$venv/.gitignore"
fi

say "Installing everpool (a minute the first time)"
# From a copy: a build leaves files behind, and those of an older build would be taken along.
for part in actors controller providers pyproject.toml README.md; do
    cp -R "$root/$part" "$copy/"
done
installed "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$copy" ||
    fail "installing failed: see above (it needs the network for the packages that pyproject.toml names)"
rm -rf "$copy" "$log"

exec "$venv/bin/everpool" demo "$@"

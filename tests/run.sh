#!/bin/sh
# Runs every check of the project in a virtual environment of its own. Needs Python 3.11 or newer and the network.
#
#   sh tests/run.sh [arguments for pytest]     with arguments, only pytest is run, once
#
# EVERPOOL_TEST_VENV  where to install (default: .venv-test in this checkout)
# EVERPOOL_PYTHON     which Python to use (default: the first that is new enough)
# CI=true             a tool that is missing is a failure; otherwise the tests that need it are skipped
set -u

say() { printf '%s\n' "$*"; }
fail() { say "run.sh: $*" >&2; exit 2; }

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
venv=${EVERPOOL_TEST_VENV:-$root/.venv-test}
cd "$root" || exit 2

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
has() { command -v "$1" >/dev/null 2>&1; }
apt_ready=
apt() {  # apt-get as root, quietly; the lists are fetched once
    has apt-get && [ "$(id -u)" = 0 ] || return 1
    export DEBIAN_FRONTEND=noninteractive
    [ -n "$apt_ready" ] || apt-get -qq update >/dev/null 2>&1
    apt_ready=yes
    apt-get -qq install --yes --no-install-recommends "$@" >/dev/null 2>&1
}

# --- Python ------------------------------------------------------------------------------------

python=
for candidate in ${EVERPOOL_PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if has "$candidate" && new_enough "$candidate"; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "Python 3.11 or newer is needed: install one, or name it in EVERPOOL_PYTHON"

log=$(mktemp "${TMPDIR:-/tmp}/everpool-install.XXXXXX")
copy=$(mktemp -d "${TMPDIR:-/tmp}/everpool-source.XXXXXX")
trap 'rm -rf "$copy" "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
quiet() { "$@" >"$log" 2>&1 || { cat "$log" >&2; return 1; }; }

began=$(date +%s)
if ! [ -x "$venv/bin/python" ] || ! new_enough "$venv/bin/python"; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        apt "python$version-venv" || apt python3-venv ||
            fail "this Python can't make virtual environments: install python$version-venv"
    fi
    quiet "$python" -m venv --clear "$venv" || fail "$venv can't be made"
    printf '*\n' >"$venv/.gitignore"
fi
# From a copy: a build leaves files behind, and those of an older build would be taken along.
for part in actors controller providers pyproject.toml README.md; do
    cp -R "$part" "$copy/"
done
quiet "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$copy[test]" ||
    fail "installing everpool and what its tests need failed: see above"
PATH=$venv/bin:$PATH
export PATH

# --- other tools -------------------------------------------------------------------------------

missing=
tool() {  # tool COMMAND PACKAGE WHAT-FOR
    if ! has "$1"; then
        apt "$2" || :
        has "$1" || { missing="$missing $1"; say "not here: $1, for $3. As root this would install $2."; }
    fi
}
unpacked() {  # the package's files without its service: nothing is installed
    has apt-get && has dpkg-deb || return 1
    [ "$(id -u)" != 0 ] || apt || :
    (cd "$copy" && apt-get -qq download prometheus >/dev/null 2>&1 &&
        dpkg-deb -x prometheus_*.deb unpacked && cp unpacked/usr/bin/promtool "$venv/bin/") 2>/dev/null
}
tool ssh openssh-client "logging in to machines with OpenSSH's client"
tool systemd-analyze systemd "checking the systemd unit"
has promtool || unpacked || tool promtool prometheus "checking the names and types of metrics"
rm -rf "$copy"
say "ready after $(($(date +%s) - began)) s: $("$venv/bin/python" --version)"

if [ "$#" -gt 0 ]; then
    "$venv/bin/python" -m pytest "$@"
    exit $?
fi

# --- tiers -------------------------------------------------------------------------------------

summary=
failed=
tier() {  # tier NAME COMMAND...
    name=$1
    shift
    say ""
    say "== $name: $*"
    start=$(date +%s)
    if "$@"; then how=ok; else how=FAILED; failed="$failed $name"; fi
    took=$(($(date +%s) - start))
    say "== $name: $how, $took s"
    summary="$summary
$(printf '%-12s %-7s %4d s' "$name" "$how" "$took")"
}

tier ruff ruff check .
tier format ruff format --check .
tier mypy mypy
tier imports lint-imports
tier fast python -m pytest -q -m 'not real' --ignore tests/simulation --timeout 120
if [ -d tests/simulation ]; then
    tier simulation python -m pytest -q tests/simulation --timeout 300
fi
tier real python -m pytest -q -m real --ignore tests/simulation --timeout 300

say "$summary"
say "all           $(($(date +%s) - began)) s"
if [ -n "$missing" ]; then
    say "not here, so what needs it was skipped:$missing"
    [ "${CI:-}" != true ] || failed="$failed tools"
fi
if [ -n "$failed" ]; then
    say "FAILED:$failed"
    exit 1
fi
say "all passed"

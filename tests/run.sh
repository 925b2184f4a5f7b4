#!/bin/sh
# Runs every check of the project in a virtual environment of its own. Needs Python 3.11 or newer and the network.
#
#   sh tests/run.sh [arguments for pytest]     with arguments, only pytest is run, once
#
# EVERPOOL_TEST_VENV    where to install (default: .venv-test in this checkout)
# EVERPOOL_JUDGES_VENV  where to install vendors' own software, which judges ours (default: .venv-judges)
# EVERPOOL_SCHEMAS      the folder with the vendors' schemas; unset, checks against them are not run
# EVERPOOL_PYTHON       which Python to use (default: the first that is new enough)
# CI=true               what is missing is a failure; otherwise the tests that need it are skipped
set -u

say() { printf '%s\n' "$*"; }
fail() { say "run.sh: $*" >&2; exit 2; }

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
venv=${EVERPOOL_TEST_VENV:-$root/.venv-test}
judges_venv=${EVERPOOL_JUDGES_VENV:-$root/.venv-judges}
judges_need="google-cloud-compute>=1.57 google-auth>=2.40 requests>=2.32 vastai>=1.9 schemathesis>=4.32"
cd "$root" || exit 2
PATH=$PATH:/usr/sbin:/sbin  # where daemons are, for who is not root
export PATH
unset PYTHONDONTWRITEBYTECODE  # thousands of processes are started: each would compile all it imports

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
        python=$(command -v "$candidate")
        break
    fi
done
[ -n "$python" ] || fail "Python 3.11 or newer is needed: install one, or name it in EVERPOOL_PYTHON"

log=$(mktemp "${TMPDIR:-/tmp}/everpool-install.XXXXXX")
copy=$(mktemp -d "${TMPDIR:-/tmp}/everpool-source.XXXXXX")
work=$(mktemp -d "${TMPDIR:-/tmp}/everpool-tests.XXXXXX")
beside=
trap '[ -z "$beside" ] || kill $beside 2>/dev/null; rm -rf "$copy" "$log" "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
quiet() { "$@" >"$log" 2>&1 || { cat "$log" >&2; return 1; }; }

environment() {  # environment DIRECTORY: a virtual environment, made when there is none that will do
    if ! [ -x "$1/bin/python" ] || ! new_enough "$1/bin/python"; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
            apt "python$version-venv" || apt python3-venv ||
                fail "this Python can't make virtual environments: install python$version-venv"
        fi
        quiet "$python" -m venv --clear "$1" || fail "$1 can't be made"
        printf '*\n' >"$1/.gitignore"
    fi
}

began=$(date +%s)
environment "$venv"
# From a copy: a build leaves files behind, and those of an older build would be taken along.
for part in actors controller providers pyproject.toml README.md; do
    cp -R "$part" "$copy/"
done
quiet "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$copy[test]" ||
    fail "installing everpool and what its tests need failed: see above"
PATH=$venv/bin:$PATH
export PATH

judges() {  # vendors' own software, apart from ours: its versions are its own affair
    [ -z "${EVERPOOL_JUDGES:-}" ] || return 0
    environment "$judges_venv"
    # shellcheck disable=SC2086  # one word per requirement
    quiet "$judges_venv/bin/python" -m pip install --quiet --disable-pip-version-check $judges_need ||
        { say "installing the vendors' own software failed: see above"; return 1; }
    EVERPOOL_JUDGES=$judges_venv/bin/python
    export EVERPOOL_JUDGES
}

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
        dpkg-deb -x prometheus_*.deb unpacked && cp unpacked/usr/bin/prom* "$venv/bin/") 2>/dev/null
}
tool ssh openssh-client "logging in to machines with OpenSSH's client"
tool systemd-analyze systemd "checking the systemd unit"
tool dockerd docker.io "machines that are containers of docker"
tool podman podman "machines that are containers of podman"
tool runc runc "running podman's containers"
tool docker-registry docker-registry "pulling images from a registry with a login"
tool systemd-nspawn systemd-container "booting a systemd, to install the service in"
tool debootstrap debootstrap "making the Debian that is booted"
tool docker docker.io "running the daemon's own container"
tool chromium chromium "looking at the dashboard"
tool zsh zsh "completing names in zsh"
tool fish fish "completing names in fish"
{ has promtool && has prometheus; } || unpacked || {
    tool promtool prometheus "checking the names and types of metrics"
    tool prometheus prometheus "scraping the daemon"
}
rm -rf "$copy"
say "ready after $(($(date +%s) - began)) s: $("$venv/bin/python" --version)"
if [ -z "${EVERPOOL_SCHEMAS:-}" ]; then
    say "EVERPOOL_SCHEMAS is unset: nothing is checked against the vendors' schemas that no package carries"
    missing="$missing EVERPOOL_SCHEMAS"
fi

if [ "$#" -gt 0 ]; then
    case "$*" in *judges*) judges || exit 1 ;; esac
    "$venv/bin/python" -m pytest "$@"
    exit $?
fi

# --- tiers -------------------------------------------------------------------------------------

run() { "$@"; }
tier() {  # tier NAME COMMAND...
    name=$1
    shift
    say ""
    say "== $name: $*"
    start=$(date +%s)
    if run "$@"; then how=ok; else how=FAILED; fi
    took=$(($(date +%s) - start))
    say "== $name: $how, $took s"
    printf '%-12s %-7s %4d s\n' "$name" "$how" "$took" >>"$work/summary"
}

# Lanes beside each other: what computes, and what mostly waits for processes, engines and vendors. Each lane
# but the last is shown whole, afterwards. The simulation's clock is virtual: it starts at once and takes what
# others leave, so no processor is idle while they wait.
listening='import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])'
lane() {  # lane NAME: run the function of that name in the background
    child=
    # A shell makes its background jobs deaf to Ctrl-C, and tests press it.
    run() { setsid "$venv/bin/python" -c "$listening" "$@" & child=$!; wait "$child"; }
    trap 'kill -TERM -- "-$child" 2>/dev/null; wait; exit 143' TERM  # with all that it started
    "$1" >"$work/$1" 2>&1
}
computing() {
    tier fast python -m pytest -q -m 'not real' --ignore tests/simulation --ignore tests/judges --timeout 120
    if judges; then
        tier judges python -m pytest -q tests/judges --timeout 300
    else
        printf ' judges' >>"$work/missing"
    fi
}
simulation() {
    tier simulation nice python -m pytest -q tests/simulation --timeout 1800
}
adapters() {
    tier adapters python -m pytest -q -m real --ignore tests/simulation --ignore tests/judges --ignore tests/real \
        --timeout 300
}

tier ruff ruff check .
tier format ruff format --check .
tier imports lint-imports
tier mypy mypy
lane computing &
first=$!
lane adapters &
second=$!
lane simulation &
third=$!
beside="$first $second $third"
say ""
say "fast, judges, simulation and adapters run beside what follows now, and are shown after it"
tier real python -m pytest -q -m real tests/real --timeout 300
for one in "$second adapters" "$first computing" "$third simulation"; do
    wait "${one% *}" || printf '%-12s %-7s\n' "${one#* }" FAILED >>"$work/summary"
    cat "$work/${one#* }"
done
beside=
missing="$missing$(cat "$work/missing" 2>/dev/null)"

say ""
cat "$work/summary"
printf '%-12s %-7s %4d s, some of it side by side\n' all "" $(($(date +%s) - began))
failed=$(sed -n 's/ *FAILED.*//p' "$work/summary" | tr '\n' ' ')
if [ -n "$missing" ]; then
    say "not here, so what needs it was skipped:$missing"
    [ "${CI:-}" != true ] || failed="$failed not here:$missing"
fi
if [ -n "$failed" ]; then
    say "FAILED: $failed"
    exit 1
fi
say "all passed"

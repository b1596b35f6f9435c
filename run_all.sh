#!/usr/bin/env bash
# Sets up once, then runs every notebook; see "./run_all.sh --help" (after set-up) or README.md.
#
#   ./run_all.sh [run options]    set up if needed, then run the notebooks
#   ./run_all.sh test             the same set-up, then every check
#   ./run_all.sh setup            the set-up alone
#   ./run_all.sh python ARGS...   the Python of that set-up
#
# Set-up: .venv beside this file gets requirements.lock, then the packages that must go in without their dependencies,
# then this package in editable form. An activated environment that has the package is used as it is; one that has
# every pin of requirements.lock (environment.yml makes such a one) gets the last two; any other is left alone.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$root"
venv="$root/.venv"
state="$venv/semirobust-setup" # a hash of what was installed, written last; anything else means unfinished
log="$venv/setup.log"
needed_gb=4
note=""

say() { printf 'set-up: %s\n' "$*" >&2; }
stop() { printf 'set-up stopped: %s\n' "$*" >&2; exit 1; }

# --- questions to a Python ---

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
tested() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1; }

has_package() { # semirobust from this very checkout, and torchattacks; -P: the current folder does not count
    "$1" -P -c '
import importlib.util as u, os, sys
spec = u.find_spec("semirobust")
ours = spec and spec.origin and os.path.samefile(os.path.dirname(os.path.dirname(spec.origin)), sys.argv[1])
sys.exit(not (ours and u.find_spec("torchattacks")))' "$root" >/dev/null 2>&1
}

has_pins() { # those that hold on every system and Python
    "$1" -P -c '
import importlib.metadata as m, sys
pins = [line.strip().split("==") for line in open("requirements.lock") if "==" in line and ";" not in line]
sys.exit(any(m.version(name).split("+")[0] != version for name, version in pins))' >/dev/null 2>&1
}

wanted_state() { # fails where the Python of .venv does not run
    "$venv/bin/python" -c '
import hashlib, sys
parts = [sys.argv[1].encode(), sys.version.encode()] + [open(name, "rb").read() for name in sys.argv[2:]]
print(hashlib.sha256(b"\0".join(parts)).hexdigest())' "$root" requirements.lock pyproject.toml 2>/dev/null
}

# --- steps ---

find_python() { # sets base: a tested Python, else a newer one; a name that does not start is skipped
    local name seen="" newer=""
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        command -v "$name" >/dev/null 2>&1 || continue
        if tested "$name"; then
            base="$name"
            return
        fi
        new_enough "$name" && newer="${newer:-$name}"
        seen="$seen, $name is $("$name" -c 'import sys; print(*sys.version_info[:3], sep=".")' 2>/dev/null || echo broken)"
    done
    seen="${seen#, }"
    [ -n "$newer" ] || stop "Python 3.11 to 3.14 is needed (found: ${seen:-none}). Install it so that python3 or python3.11 starts it."
    base="$newer"
    say "this was tested with Python 3.11 to 3.14, and here $seen: trying $base"
}

check_disk() {
    local free_kb
    free_kb="$(df -Pk "$root" | awk 'NR == 2 { print $4 }')"
    if [ "$free_kb" -lt $((needed_gb * 1024 * 1024)) ]; then
        stop "about $needed_gb GB are needed in $root, and $((free_kb / 1024)) MB are free. Free some space, or move the folder to a larger disk."
    fi
}

pip_install() { # what it is, for the reader; then arguments of pip
    say "$1"
    shift
    "$python" -m pip install --no-input --disable-pip-version-check --progress-bar off "$@" >>"$log" 2>&1 && return
    printf -- '--- the last lines of %s\n' "$log" >&2
    tail -n 12 "$log" >&2
    printf -- '---\n' >&2
    if grep -qE 'No space left on device|Disk quota exceeded' "$log"; then
        stop "a disk is full (this folder's, that of temporary files, or that of pip's cache). Free some space and run this again."
    elif grep -qE 'NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|Max retries|Failed to establish|Failed to resolve|ProxyError|SSLError|Connection (refused|reset|broken)|Network is unreachable' "$log"; then
        stop "pip could not reach the package index. Check the network (or pip's proxy and index settings: pip config list) and run this again."
    fi
    stop "pip could not install this; its own words are above. Run this again once that is mended."
}

install_last() { # what no lock or environment file can hold
    local no_deps
    no_deps="$("$python" -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["tool"]["semirobust"]["no-deps"])')"
    # shellcheck disable=SC2086  # one argument per package
    pip_install "installing $no_deps without its dependencies" --no-deps $no_deps
    pip_install "installing this package in editable form" --no-deps --no-build-isolation --editable .
}

use_activated() { # sets python, or fails
    local activated="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}"
    [ -n "$activated" ] && [ -x "$activated/bin/python" ] || return 1
    [ -e "$state" ] && [ "$activated" -ef "$venv" ] && return 1 # our own: it may need finishing
    python="$activated/bin/python"
    has_package "$python" && return
    if new_enough "$python" && has_pins "$python"; then
        say "using the activated environment $activated, which has every pin of requirements.lock"
        log="$(mktemp)"
        install_last
        rm -f "$log"
        return
    fi
    note="the activated environment $activated does not have the pins of requirements.lock: leaving it alone"
    return 1
}

up_to_date() { [ -s "$state" ] && [ "$(cat "$state")" = "$(wanted_state)" ]; }

use_venv() { # sets python
    python="$venv/bin/python"
    up_to_date && return
    if [ -e "$venv" ] && ! [ -e "$state" ]; then
        has_package "$python" && return
        stop "$venv is there, but this script did not make it and it lacks the package. Remove or rename it, and run this again."
    fi
    [ -z "$note" ] || say "$note"
    find_python
    "$base" -c 'import venv, ensurepip' >/dev/null 2>&1 ||
        stop "$base has no venv module. Install it (Debian and Ubuntu: the package python3-venv) and run this again."
    if ! [ -s "$state" ]; then
        check_disk
        { mkdir -p "$venv" && touch "$state"; } 2>/dev/null || stop "cannot write in $root. Make the folder writable, or copy it elsewhere."
    fi
    exec 9>>"$state"
    if command -v flock >/dev/null 2>&1 && ! flock -n 9; then
        say "another set-up is at work here: waiting for it"
        flock 9
    fi
    up_to_date || fill_venv
    exec 9>&- # let the next one in
}

fill_venv() {
    if [ -s "$state" ] && "$python" -m pip --version >/dev/null 2>&1; then
        say "requirements.lock, pyproject.toml or this folder's place has changed: bringing .venv up to date"
    else
        [ ! -e "$venv/pyvenv.cfg" ] || say "an earlier set-up was not finished: starting it again"
        find "$venv" -mindepth 1 ! -path "$state" -delete
        say "making .venv with $("$base" --version)"
        "$base" -m venv "$venv" >"$log" 2>&1 || { cat "$log" >&2; stop "$base could not make a virtual environment in $venv; its own words are above."; }
    fi
    : >"$state" # unfinished from here on
    : >"$log"
    pip_install "installing the $(grep -c == requirements.lock) packages of requirements.lock, a few minutes (log: .venv/setup.log)" -r requirements.lock
    install_last
    wanted_state >"$state"
    say "done; the next start skips all this"
}

use_activated || use_venv
case "${1:-}" in
    setup) say "ready: $python" ;;
    python) shift && exec "$python" "$@" ;;
    *) exec "$python" -m tools "$@" ;;
esac

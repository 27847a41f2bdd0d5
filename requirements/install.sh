#!/usr/bin/env bash
# Make .venv and install the locked dependencies, hashes checked, then Bartizan itself.
#
#   requirements/install.sh [GROUP…]     default: run demo dev
#
# Idempotent: a stamp keyed to what is installed makes the second call return at once. Needs python3 (3.11 or
# newer) with venv, and git; names the missing package otherwise. The newest Python that is here is taken, since a
# newer one is a faster one; PYTHON=… names another.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The newest Python, up to the newest that the tests ran on, that can make an environment; else whatever `python3` is.
newest() {
  local name
  for name in python3.14 python3.13 python3.12 python3.11; do
    if "$name" -c 'import venv, ensurepip, sqlite3, ssl' 2>/dev/null; then echo "$name"; return; fi
  done
  echo python3
}

groups=("$@")
[ ${#groups[@]} -gt 0 ] || groups=(run demo dev)
python=${PYTHON:-$(newest)}
venv=.venv

fail() { printf 'setup: %s\n' "$1" >&2; shift; for line in "$@"; do printf '       %s\n' "$line" >&2; done; exit 1; }

check_machine() {
  command -v "$python" >/dev/null || fail "$python is not installed." "On Debian: apt-get install python3 python3-venv"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed; $python is $("$python" -c 'import platform; print(platform.python_version())')." \
      "Call it with another one: make setup PYTHON=python3.12"
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$python cannot make virtual environments." "On Debian: apt-get install python3-venv"
  command -v git >/dev/null || fail "git is not installed." "On Debian: apt-get install git"
  "$python" - <<'PY' || fail "the policy engine has no wheel for this system." "It needs Linux with glibc 2.34 or newer (Debian 12 and later; not Alpine), or macOS on Apple silicon."
import platform, sys
libc, version = platform.libc_ver()
ok = sys.platform == "darwin" or (libc == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 34))
sys.exit(not ok)
PY
}

# What is installed, as one hash: the locks, and what pyproject says about the project itself.
fingerprint() {
  { sed -n '/^\[build-system\]/,/^\[dependency-groups\]/p; /^\[tool\.hatch/,/^$/p' pyproject.toml
    for group in "$@"; do cat "requirements/$group.txt"; done; } | git hash-object --stdin
}

stamped() { [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.stamp-$1" 2>/dev/null)" = "$(fingerprint "$1")" ]; }

# pip's lines become a count: one line rewritten on a terminal, a dot per ten packages otherwise.
progress() {
  local total=$1
  if [ -t 1 ]; then
    awk -v total="$total" '/^Collecting|^Requirement already/ {n++; printf "\r       %d of %d resolved", n, total; fflush()}
      /^Installing collected/ {printf "\r       installing %d packages…      ", total; fflush()} END {print ""}'
  else
    awk '/^Collecting/ && ++n % 10 == 1 {printf "."; fflush()} /^Installing collected/ {printf " installing"; fflush()} END {print ""}'
  fi
}

install() {
  local step=$1 what=$2; shift 2
  local started=$SECONDS log="$venv/install.log"
  printf '[%s] %s\n' "$step" "$what"
  if ! "$venv/bin/python" -m pip install --disable-pip-version-check --no-input "$@" 2>&1 | tee "$log" |
    progress "$(cat "${locks[@]}" | grep -c '^[A-Za-z]')"; then
    tail -n 25 "$log" >&2
    fail "pip could not install $what (above: the end of $log)."
  fi
  printf '       done in %d s\n' $((SECONDS - started))
}

missing=()
for group in build "${groups[@]}"; do stamped "$group" || missing+=("$group"); done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi

check_machine
if command -v flock >/dev/null; then mkdir -p build; exec 9>build/setup.lock; flock 9; fi  # one at a time

# An environment that works is kept, whatever made it; `make clean` first to change the interpreter.
if ! "$venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  "$python" -m venv --clear "$venv"
fi
printf '[1/3] virtual environment %s (%s)\n' "$venv" "$("$venv/bin/python" -V)"

locks=(); for group in "${missing[@]}"; do locks+=("requirements/$group.txt"); done
# Wheels only: nothing is compiled and no package's set-up code runs.
install 2/3 "locked dependencies: ${missing[*]}" --require-hashes --no-deps --only-binary :all: "${locks[@]/#/-r}"
locks=(/dev/null)
install 3/3 "bartizan" --no-build-isolation --no-deps --quiet --editable .
for group in "${missing[@]}"; do fingerprint "$group" >"$venv/.stamp-$group"; done

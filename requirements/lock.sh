#!/usr/bin/env bash
# Resolve every group and extra of pyproject.toml together and write requirements/<group>.txt, hashes included.
#
# Why not commit uv.lock: it names the index and the address of every file, so it ties a build to one index and
# cannot be installed by plain pip. See docs/adr/0009. The lock itself is kept in build/ and reused, so that
# only what pyproject.toml asks for moves; `make lock UPGRADE=1` moves everything.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
uv=$root/.venv/bin/uv
[ -x "$uv" ] || { echo "lock: uv is missing; run make setup first" >&2; exit 1; }

work=$root/build/lock
mkdir -p "$work"
cp pyproject.toml "$work/"
cd "$work"
"$uv" lock --python "$root/.venv/bin/python" ${UPGRADE:+--upgrade}
export_group() {
  local group=$1; shift
  "$uv" export --quiet --frozen --no-header --no-annotate --no-emit-project "$@" --output-file "$work/$group.txt"
  mv "$work/$group.txt" "$root/requirements/$group.txt"
}
export_group run --no-default-groups
for group in build demo dev conformance; do export_group "$group" --only-group "$group"; done
cd "$root"
git --no-pager diff --stat -- requirements || true

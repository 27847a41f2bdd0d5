#!/usr/bin/env bash
# What a newcomer does: `make run`, then `bartizan tour` in a second terminal, then Ctrl-C. Fails unless the
# screen appears, every step of the tour comes out as it should, and everything is gone within two seconds.
# Needs nothing but bash and coreutils: a bare machine has no pgrep.
set -u
cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d)
state=$work/state log=$work/log
bin=.venv/bin/bartizan

# Processes that were started for this run: its state directory stands in their arguments or environment.
ours() {
  local dir
  for dir in /proc/[0-9]*; do
    [ "${dir#/proc/}" = "$$" ] || [ "${dir#/proc/}" = "$BASHPID" ] && continue
    { tr '\0' '\n' <"$dir/environ"; tr '\0' '\n' <"$dir/cmdline"; } 2>/dev/null | grep -qF -- "$state" && echo "${dir#/proc/}"
  done
}

set -m # a process group of its own, as a terminal gives it: Ctrl-C reaches make, the firewall and its children
BARTIZAN_STATE_DIR="$state" make run ARGS="--port 0 --admin-port 0" >"$log" 2>&1 </dev/null &
group=$!
set +m
end() { kill -KILL -- "-$group" 2>/dev/null; rm -rf "$work"; }
trap end EXIT

for _ in $(seq 1 600); do
  grep -q "Bartizan is up" "$log" && break
  kill -0 "$group" 2>/dev/null || break
  sleep 0.2
done
cat "$log"
grep -q "Bartizan is up" "$log" || { echo "run: the screen did not appear"; exit 1; }

timeout 180 "$bin" --state-dir "$state" tour
tour=$?

before=$(date +%s%N)
kill -INT -- "-$group"
for _ in $(seq 1 500); do
  kill -0 "$group" 2>/dev/null || break
  sleep 0.02
done
ms=$((($(date +%s%N) - before) / 1000000))
left=$(ours)
echo "run: down in $ms ms"
if [ "$ms" -gt 2000 ] || [ -n "$left" ]; then
  echo "run: not clean: $ms ms, left: ${left:-nothing}"
  exit 1
fi
exit "$tour"

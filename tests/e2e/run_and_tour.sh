#!/usr/bin/env bash
# What a newcomer does: `make run`, then `bartizan tour` in a second terminal, then Ctrl-C. Fails unless the
# screen appears, every step of the tour comes out as it should, and everything is gone within two seconds.
set -u
cd "$(dirname "$0")/../.."
state=$(mktemp -d)/state
log=$(mktemp)
bin=.venv/bin/bartizan
children() { pgrep -f "$state" || true; }

BARTIZAN_STATE_DIR="$state" make run ARGS="--port 0 --admin-port 0" >"$log" 2>&1 &
for _ in $(seq 1 600); do
  grep -q "Bartizan is up" "$log" && break
  sleep 0.2
done
if ! grep -q "Bartizan is up" "$log"; then
  echo "run: the screen did not appear"; cat "$log"; kill %1; exit 1
fi
cat "$log"

"$bin" --state-dir "$state" tour
tour=$?

# Ctrl-C goes to the serving process; `make` has put it in the foreground by exec.
up=$(pgrep -f "bartizan up --port 0" | head -1)
before=$(date +%s%N)
kill -INT "$up"
while kill -0 "$up" 2>/dev/null; do sleep 0.02; done
ms=$(( ($(date +%s%N) - before) / 1000000 ))
wait
echo "run: down in $ms ms"
left=$(children)
if [ "$ms" -gt 2000 ] || [ -n "$left" ]; then
  echo "run: not clean: $ms ms, left: $left"; exit 1
fi
exit $tour

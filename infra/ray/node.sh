#!/bin/bash
# Run one node of a Ray cluster and restart `ray start` whenever it exits; see docs/how-to/cluster.md.
#   infra/ray/node.sh head                        on the first host
#   HEAD=10.0.0.1 infra/ray/node.sh worker        on every other host
# When a head without an external Redis dies, its nodes exit within a minute; so does a node that was unreachable for too long. Ray
# does not restart them. Settings come from the environment; further arguments go to `ray start`:
#   HEAD                            address of the head; required for workers
#   ADDRESS                         address of this node in the cluster (chosen by Ray)
#   PORT, DASHBOARD_PORT            ports of the head (6379, 8265)
#   DASHBOARD_HOST                  address on which the head accepts jobs (127.0.0.1)
#   RAY                             program to run (ray)
#   RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH   the same on all nodes; the nodes may need more secrets (docs/explanation/cluster.md)
#   PAUSE                           seconds before a restart (3)
set -uo pipefail
fail() { echo "node.sh: $*" >&2; exit 2; }

part=${1:-}
case $part in
  head) where=(--head --port="${PORT:-6379}" --dashboard-host="${DASHBOARD_HOST:-127.0.0.1}" --dashboard-port="${DASHBOARD_PORT:-8265}") ;;
  worker)
    [ -n "${HEAD:-}" ] || fail "HEAD is not set; expected the address of the cluster's head"
    where=(--address="$HEAD:${PORT:-6379}") ;;
  *) fail "found '$part', expected head or worker" ;;
esac
shift
[ -n "${RAY_AUTH_MODE:-}" ] || fail "RAY_AUTH_MODE is not set; expected token (with RAY_AUTH_TOKEN_PATH) or disabled"
[ -z "${ADDRESS:-}" ] || where+=(--node-ip-address="$ADDRESS")
export RAY_USAGE_STATS_ENABLED=0

child=
stop() {
  trap - TERM INT
  if [ -n "$child" ]; then
    kill -TERM "$child" 2>/dev/null
    wait "$child"
    kill -KILL -- "-$child" 2>/dev/null
  fi
  exit 0
}
trap stop TERM INT
while true; do
  # In its own session: processes that a dying `ray start` leaves behind (workers, agents) are in its group and are killed with it.
  setsid "${RAY:-ray}" start "${where[@]}" --block --disable-usage-stats "$@" &
  child=$!
  wait "$child"
  status=$?
  kill -KILL -- "-$child" 2>/dev/null
  child=
  echo "node.sh: $(date -u +%FT%TZ) ray start exited with status $status; restarting in ${PAUSE:-3}s" >&2
  sleep "${PAUSE:-3}" &
  wait $!
done

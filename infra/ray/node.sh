#!/bin/bash
# One node of a Ray cluster, kept up: whenever `ray start` has ended, it is started again. docs/how-to/cluster.md says how it is applied.
#   infra/ray/node.sh head                        on the first host
#   HEAD=10.0.0.1 infra/ray/node.sh worker        on every other
# A head without an external Redis takes its cluster with it when it dies: the others notice within a minute and end, and each must be
# started anew. So does a node that was out of reach for too long. Ray itself starts none of them again. Everything comes from the
# environment, and words after `head` or `worker` go to `ray start`:
#   HEAD                            the head's address; needed by workers
#   ADDRESS                         this node's own address in the cluster (Ray's choice)
#   PORT, DASHBOARD_PORT            the head's (6379, 8265)
#   DASHBOARD_HOST                  where the head listens for jobs (127.0.0.1)
#   RAY                             the program (ray)
#   RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH   as for every part of the cluster; and what the nodes need of secrets (docs/explanation/cluster.md)
#   PAUSE                           seconds before the next start (3)
set -uo pipefail
fail() { echo "node.sh: $*" >&2; exit 2; }

part=${1:-}
case $part in
  head) where=(--head --port="${PORT:-6379}" --dashboard-host="${DASHBOARD_HOST:-127.0.0.1}" --dashboard-port="${DASHBOARD_PORT:-8265}") ;;
  worker)
    [ -n "${HEAD:-}" ] || fail "HEAD is not set; expected the address of the cluster's head"
    where=(--address="$HEAD:${PORT:-6379}") ;;
  *) fail "expected head or worker, found '$part'" ;;
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
  # A session of its own: what a dying `ray start` leaves behind (workers of tasks, agents) is in its group, and ends with it.
  setsid "${RAY:-ray}" start "${where[@]}" --block --disable-usage-stats "$@" &
  child=$!
  wait "$child"
  status=$?
  kill -KILL -- "-$child" 2>/dev/null
  child=
  echo "node.sh: $(date -u +%FT%TZ) ray start has ended with status $status; again in ${PAUSE:-3} s" >&2
  sleep "${PAUSE:-3}" &
  wait $!
done

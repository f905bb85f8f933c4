#!/bin/sh
# The MLflow server of a cluster: runs in PostgreSQL, artifacts in a bucket. docs/how-to/cluster.md says how it is applied.
# Everything, secrets too, comes from the environment, so that no password stands in a command line or a file:
#   MLFLOW_BACKEND_STORE_URI      postgresql+psycopg2://USER:PASSWORD@HOST:5432/mlflow
#   MLFLOW_ARTIFACTS_DESTINATION  s3://BUCKET/FOLDER, where this server keeps what clients send it: they need no access to the bucket
#   AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (or the machine's role)   for that bucket
#   HOST, PORT, WORKERS           where to listen (127.0.0.1, 5000), and how many processes answer (2)
#   MLFLOW_SERVER_ALLOWED_HOSTS   the names by which clients call this server, with ports, such as mlflow:5000,mlflow.example.org
#   AUTH=basic                    asks for user and password (below)
#   PYTHON                        the interpreter to use (python)
# With AUTH=basic MLflow keeps users in a data base of its own: set MLFLOW_AUTH_CONFIG_PATH to a basic_auth.ini with `database_uri`
# and the first administrator's name and password, and MLFLOW_FLASK_SERVER_SECRET_KEY. Clients then set MLFLOW_TRACKING_USERNAME and
# MLFLOW_TRACKING_PASSWORD. It needs the package mlflow[auth]. Put TLS before it (an ingress, nginx) on any network but your own.
set -eu
fail() { echo "serve.sh: $*" >&2; exit 2; }
[ -n "${MLFLOW_BACKEND_STORE_URI:-}" ] || fail "MLFLOW_BACKEND_STORE_URI is not set; expected postgresql+psycopg2://USER:PASSWORD@HOST:5432/mlflow"
[ -n "${MLFLOW_ARTIFACTS_DESTINATION:-}" ] || fail "MLFLOW_ARTIFACTS_DESTINATION is not set; expected s3://BUCKET/FOLDER"
case ${AUTH:-none} in
  none) set -- ;;
  basic)
    [ -n "${MLFLOW_FLASK_SERVER_SECRET_KEY:-}" ] || fail "AUTH=basic needs MLFLOW_FLASK_SERVER_SECRET_KEY"
    set -- --app-name basic-auth ;;
  *) fail "AUTH=$AUTH; expected none or basic" ;;
esac
export MLFLOW_BACKEND_STORE_URI MLFLOW_ARTIFACTS_DESTINATION
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
exec "${PYTHON:-python}" -m mlflow server --host "${HOST:-127.0.0.1}" --port "${PORT:-5000}" --workers "${WORKERS:-2}" "$@"

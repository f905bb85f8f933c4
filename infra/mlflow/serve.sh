#!/bin/sh
# Start a cluster's MLflow server, with runs in PostgreSQL and artifacts in a bucket; see docs/how-to/cluster.md.
# All settings, including secrets, come from the environment, so that no password is in a command line or file:
#   MLFLOW_BACKEND_STORE_URI      postgresql+psycopg2://USER:PASSWORD@HOST:5432/mlflow
#   MLFLOW_ARTIFACTS_DESTINATION  s3://BUCKET/FOLDER for artifacts; clients upload to this server and need no access to the bucket
#   AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (or the machine's role)   access to that bucket
#   HOST, PORT, WORKERS           address to listen on (127.0.0.1, 5000), and number of processes (2)
#   MLFLOW_SERVER_ALLOWED_HOSTS   names and ports that clients use for this server, such as mlflow:5000,mlflow.example.org
#   AUTH=basic                    requires a user name and password (below)
#   PYTHON                        interpreter to use (python)
# With AUTH=basic, MLflow keeps users in a separate database: set MLFLOW_AUTH_CONFIG_PATH to a basic_auth.ini with `database_uri`
# and the first administrator's name and password, and set MLFLOW_FLASK_SERVER_SECRET_KEY. Clients set MLFLOW_TRACKING_USERNAME and
# MLFLOW_TRACKING_PASSWORD. Requires the package mlflow[auth]. On any network but your own, add TLS (an ingress, nginx).
set -eu
fail() { echo "serve.sh: $*" >&2; exit 2; }
[ -n "${MLFLOW_BACKEND_STORE_URI:-}" ] || fail "MLFLOW_BACKEND_STORE_URI is not set; expected postgresql+psycopg2://USER:PASSWORD@HOST:5432/mlflow"
[ -n "${MLFLOW_ARTIFACTS_DESTINATION:-}" ] || fail "MLFLOW_ARTIFACTS_DESTINATION is not set; expected s3://BUCKET/FOLDER"
case ${AUTH:-none} in
  none) set -- ;;
  basic)
    [ -n "${MLFLOW_FLASK_SERVER_SECRET_KEY:-}" ] || fail "AUTH=basic requires MLFLOW_FLASK_SERVER_SECRET_KEY; set it to a random string"
    set -- --app-name basic-auth ;;
  *) fail "AUTH=$AUTH; expected none or basic" ;;
esac
export MLFLOW_BACKEND_STORE_URI MLFLOW_ARTIFACTS_DESTINATION
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
exec "${PYTHON:-python}" -m mlflow server --host "${HOST:-127.0.0.1}" --port "${PORT:-5000}" --workers "${WORKERS:-2}" "$@"

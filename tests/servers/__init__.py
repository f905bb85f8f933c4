"""Real servers for tests and the remote demo: S3, PostgreSQL, MLflow, Ray, and a proxy that delays and pauses. All on 127.0.0.1."""

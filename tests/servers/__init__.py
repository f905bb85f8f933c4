"""Real servers for tests and the remote demo: S3, PostgreSQL, MLflow, Ray."""

"""The tracking service: what runs it without Docker, and what its containers run beside MLflow."""

"""All that talks to MLflow: it sends, reads, keeps leases, registers models, makes views."""

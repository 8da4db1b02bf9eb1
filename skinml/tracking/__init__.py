"""What is written to MLflow and read from it."""

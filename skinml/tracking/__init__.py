"""What a run leaves in MLflow, before it is there: its folder, its journal, what has arrived."""

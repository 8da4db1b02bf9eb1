"""What figures can carry: of runs against each other, and of tables that others published."""

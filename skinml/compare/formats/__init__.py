"""A report (`skinml.compare.document`) in each format, a file each."""

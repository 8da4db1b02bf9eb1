"""A table of accuracies that somebody published, held against arithmetic."""

"""From the official image files to the prepared arrays that training reads."""

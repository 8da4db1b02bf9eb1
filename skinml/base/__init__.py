"""What every room uses: errors, files, processes, progress, the cache."""

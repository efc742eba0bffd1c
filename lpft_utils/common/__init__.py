"""What every room uses: errors, paths, files, checks, tables; imports nothing of the package."""

"""One tidy frame of results, and the tables, claims and reference results made from it."""

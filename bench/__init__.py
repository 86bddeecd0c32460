"""Speed as ratios against a named rival, both measured in one run: `make bench`."""

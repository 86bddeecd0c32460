"""One question per file; `analyse.py` answers those of a study, `commands.py` those of files."""

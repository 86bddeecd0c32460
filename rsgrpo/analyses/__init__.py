"""One question per file, each answered with numpy alone; `analyse.py` reads and writes."""

"""Problems: the embedded task, and JSONL files of one's own."""

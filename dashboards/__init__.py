"""The pictures: figures and the offline report. Reads tables, never trains, never computes policy."""

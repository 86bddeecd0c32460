"""The pictures: figures and the offline report. Reads the tables of a study and never trains."""

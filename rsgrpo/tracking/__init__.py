"""Runs on record: an append-only local spool, and a sender that ships it to MLflow.

`spool` and `environment` serve the process that works and never reach the network; `sender` runs
beside it.
"""

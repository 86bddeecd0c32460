"""Pass@k, its uncertainties, comparisons between methods, and the stage that scores a policy."""

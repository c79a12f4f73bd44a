"""The cluster benchmark: one workload, run on troth and on what its users would take instead."""

"""Two-phase commit, pure: what its parties may do (table), how transactions are named (gid), what a log keeps
(records), and what a log says (cells). docs/transactions.md draws the diagram from the table.
"""

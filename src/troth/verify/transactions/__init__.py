"""Checkers for histories of transactions: isolation levels, their anomalies, cheap scans of workloads."""

from troth.verify.transactions.check import (
    WORKLOADS,
    check_transactions,
)
from troth.verify.transactions.levels import TRANSACTION_MODELS
from troth.verify.transactions.outcome import TransactionVerdict
from troth.verify.transactions.register import RegisterAssumptions

__all__ = [
    "TRANSACTION_MODELS",
    "WORKLOADS",
    "RegisterAssumptions",
    "TransactionVerdict",
    "check_transactions",
]

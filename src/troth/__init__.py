"""troth: keeps data consistent across processes, machines and databases, and proves that it does.

Public names are loaded when they are first used: ``import troth`` is quick, and ``troth.hashing`` brings nothing
of the cluster with it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from troth import aio as aio
    from troth import errors as errors
    from troth import models as models
    from troth.client.operations import Delete as Delete
    from troth.client.operations import Get as Get
    from troth.client.operations import Put as Put
    from troth.client.operations import Txn as Txn
    from troth.client.operations import create_revision as create_revision
    from troth.client.operations import lease as lease
    from troth.client.operations import mod_revision as mod_revision
    from troth.client.operations import value as value
    from troth.client.operations import version as version
    from troth.client.recording import recording as recording
    from troth.client.registers.replies import RegisterReply as RegisterReply
    from troth.client.registers.sync import PaxosClient as PaxosClient
    from troth.client.replicated import Replicated as Replicated
    from troth.client.replicated import command as command
    from troth.client.replicated import replicated as replicated
    from troth.client.replies import DeleteReply as DeleteReply
    from troth.client.replies import GetReply as GetReply
    from troth.client.replies import PutReply as PutReply
    from troth.client.replies import RangeReply as RangeReply
    from troth.client.replies import TxnReply as TxnReply
    from troth.client.sync import Client as Client
    from troth.client.sync import Lease as Lease
    from troth.client.sync import Session as Session
    from troth.client.sync import Watch as Watch
    from troth.client.sync import connect as connect
    from troth.errors import TrothError as TrothError
    from troth.kv.requests import Event as Event
    from troth.kv.requests import KeyValue as KeyValue
    from troth.models import bounded as bounded
    from troth.models import eventual as eventual
    from troth.models import linearizable as linearizable
    from troth.models import sequential as sequential
    from troth.models import session as session
    from troth.server.local import LocalCluster as LocalCluster
    from troth.server.process import RaftServer as RaftServer
    from troth.transactions.aio import AsyncTwoPhaseCommit as AsyncTwoPhaseCommit
    from troth.transactions.coordinator import TwoPhaseCommit as TwoPhaseCommit
    from troth.transactions.participants.sqlite import LastResource as LastResource

__version__ = "0.1.0"

_HOME = {
    # clients
    "connect": "troth.client.sync",
    "Client": "troth.client.sync",
    "PaxosClient": "troth.client.registers.sync",
    # what clients hand out, for annotations; errors: all others are in troth.errors
    "Lease": "troth.client.sync",
    "Watch": "troth.client.sync",
    "Session": "troth.client.sync",
    "PutReply": "troth.client.replies",
    "GetReply": "troth.client.replies",
    "RangeReply": "troth.client.replies",
    "DeleteReply": "troth.client.replies",
    "TxnReply": "troth.client.replies",
    "RegisterReply": "troth.client.registers.replies",
    "KeyValue": "troth.kv.requests",
    "Event": "troth.kv.requests",
    "TrothError": "troth.errors",
    # servers
    "LocalCluster": "troth.server.local",
    "RaftServer": "troth.server.process",
    # transactions: operations and comparisons
    "Put": "troth.client.operations",
    "Get": "troth.client.operations",
    "Delete": "troth.client.operations",
    "Txn": "troth.client.operations",
    "value": "troth.client.operations",
    "version": "troth.client.operations",
    "create_revision": "troth.client.operations",
    "mod_revision": "troth.client.operations",
    "lease": "troth.client.operations",
    # replicated objects
    "Replicated": "troth.client.replicated",
    "replicated": "troth.client.replicated",
    "command": "troth.client.replicated",
    # transactions over several databases
    "TwoPhaseCommit": "troth.transactions.coordinator",
    "AsyncTwoPhaseCommit": "troth.transactions.aio",
    "LastResource": "troth.transactions.participants.sqlite",
    # histories
    "recording": "troth.client.recording",
    # read levels
    "linearizable": "troth.models",
    "sequential": "troth.models",
    "session": "troth.models",
    "bounded": "troth.models",
    "eventual": "troth.models",
}
_MODULES = ("aio", "errors", "hashing", "models")

__all__ = ["__version__", *_HOME, *_MODULES]  # noqa: PLE0604  (the tables hold strings only)


def __getattr__(name: str) -> object:
    if name in _HOME:
        try:
            found = getattr(import_module(_HOME[name]), name)
        except ModuleNotFoundError as error:
            if error.name not in ("sqlalchemy", "greenlet"):
                raise
            raise ImportError(import_module("troth.transactions").missing(name), name=error.name) from error
    elif name in _MODULES:
        found = import_module(f"troth.{name}")
    else:
        raise AttributeError(f"module 'troth' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)

"""Who a server is: the file ``identity``, written once, before the server says its first word.

The node id is drawn at random when the data directory is new. A server whose directory was wiped or replaced
therefore comes back as a stranger, and can not vote a second time in a term under a name that has voted
already. (Servers that take their id from the configuration lose data that way.)

The file is one `block` with magic ``TROTHIDN``; its body is the msgpack array of `Identity`. In version 1 that array
ends with `genesis`, and the engine is Raft; version 2 names the engine. It is written under another name, synced,
renamed, and the directory synced: a crash leaves all of it or nothing.
"""

import msgspec

from troth.core.interface import Membership
from troth.errors import Corrupt, IdentityLost, StorageError, UsageError, WrongEngine
from troth.ids import ClusterId, NodeId
from troth.ports import FileSystem
from troth.storage import block, names
from troth.storage.scan import read

MAGIC = b"TROTHIDN"
VERSION = 2

_ADVICE = "Put the file back, or remove this server from the cluster and add it again with an empty data directory"


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """`genesis` is the membership that the cluster began with; without voters for a server that joined later.

    `consensus` is the engine whose promises and log the directory holds, with its quorum sizes if they are its own;
    another one can make no sense of them, and quorums of other sizes need not meet these.
    """

    cluster_id: ClusterId
    node_id: NodeId
    name: str
    genesis: Membership
    consensus: str = "raft"

    @property
    def holds_slots(self) -> bool:
        """Whether its log is one of slots, as Multi-Paxos has it, and not of entries."""
        return self.consensus.startswith("paxos")


_decode = msgspec.msgpack.Decoder(Identity).decode


def load(files: FileSystem) -> Identity | None:
    """The identity in *files*, None if there is none.

    Raises:
        Corrupt: the file is damaged.
        StorageError: it can not be read, or its format is newer than this program.
    """
    if names.IDENTITY not in files.names():
        return None
    try:
        file = files.open(names.IDENTITY)
    except OSError as error:
        raise StorageError(f"{names.IDENTITY} can not be opened: {error}. {_ADVICE}") from error
    try:
        data = read(file, names.IDENTITY, 0, file.size())
    finally:
        file.close()
    body = block.unseal(data, magic=MAGIC, version=VERSION, name=names.IDENTITY, advice=_ADVICE)
    try:
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(f"{names.IDENTITY} does not make sense: {error}. {_ADVICE}", path=names.IDENTITY) from error


def store(files: FileSystem, identity: Identity) -> None:
    """Write *identity* durably, once.

    Raises:
        UsageError: there is one already.
        StorageError: the disk failed; nothing is known, stop and start again.
    """
    if names.IDENTITY in files.names():
        raise UsageError("this data directory has an identity already; it is never changed")
    temporary = names.IDENTITY + names.NEW
    try:
        file = files.create(temporary)
        try:
            file.write_at(0, _sealed(identity))
            file.sync()
        finally:
            file.close()
        files.rename(temporary, names.IDENTITY)
        files.sync_directory()
    except OSError as error:
        raise StorageError(
            f"{names.IDENTITY} can not be written: {error}. Make room or repair the disk, then start this server again"
        ) from error


def _sealed(identity: Identity) -> bytes:
    fields = msgspec.structs.astuple(identity)
    version = 1 if identity.consensus == "raft" else VERSION
    return block.seal(MAGIC, version, msgspec.msgpack.encode(fields[:-1] if version == 1 else fields))


def check_consensus(known: Identity, wanted: str) -> None:
    """Raise WrongEngine when the directory of *known* belongs to another engine than *wanted*."""
    if known.consensus != wanted:
        raise WrongEngine(
            f"this data directory was made with consensus {known.consensus}, not {wanted}, and what one has promised"
            f" the other does not understand: start this server with --consensus {known.consensus}, or give it an"
            " empty data directory"
        )


def lost(what: str) -> IdentityLost:
    """There is data, and nothing that says whose."""
    return IdentityLost(f"the data directory has {what}, but no file `{names.IDENTITY}`. {_ADVICE}")

"""What the hashing package refuses, and why. All are the caller's to fix, hence `UsageError`.

::

    UsageError
      NotSupported        this algorithm cannot do that; the message names the paper and what can
      UnknownNode         no such node in the ring
      DuplicateNode       the node is already in the ring, or listed twice
      NoNodes             a look-up in an empty ring
      TooFewNodes         more replicas asked for than there are nodes
      CapacityExceeded    a fixed capacity (Anchor, a Maglev table) is used up
      BadKey              neither str nor bytes, or hashes that are not uint64
      BadSetting          a weight, a count or a factor outside its range
"""

from troth.errors import UsageError


class NotSupported(UsageError):
    """The algorithm cannot do what was asked, by its design rather than by omission."""

    code = "not_supported"

    def __init__(self, *, algorithm: str, what: str, instead: str) -> None:
        super().__init__(f"{algorithm} cannot {what}; {instead}")
        self.algorithm = algorithm
        self.what = what


class UnknownNode(UsageError):
    """The ring has no node of this name."""

    code = "unknown_node"

    def __init__(self, name: str, message: str = "") -> None:
        super().__init__(message or f"no node named {name!r} in this ring")
        self.name = name


class DuplicateNode(UsageError):
    """The ring already has a node of this name, or a list names it twice."""

    code = "duplicate_node"

    def __init__(self, name: str, message: str = "") -> None:
        super().__init__(message or f"node {name!r} is already in this ring; reweight() changes its weight")
        self.name = name


class NoNodes(UsageError):
    """The ring is empty, so no key has a place."""

    code = "no_nodes"

    def __init__(self) -> None:
        super().__init__("the ring has no nodes; add() one first")


class TooFewNodes(UsageError):
    """More distinct replicas were asked for than there are nodes."""

    code = "too_few_nodes"

    def __init__(self, *, replicas: int, nodes: int) -> None:
        super().__init__(f"{replicas} replicas on distinct nodes need {replicas} nodes; the ring has {nodes}")
        self.replicas = replicas
        self.nodes = nodes


class CapacityExceeded(UsageError):
    """A capacity that was fixed when the object was made is used up."""

    code = "capacity_exceeded"


class BadKey(UsageError):
    """A key that is neither str nor bytes, or an array of hashes that is not uint64."""

    code = "bad_key"


class BadSetting(UsageError):
    """A weight, count or factor outside its range."""

    code = "bad_setting"

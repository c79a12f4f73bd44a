"""troth with consensus paxos; all else as in troth.py."""

from cluster.troth import Troth


class TrothPaxos(Troth):
    name = "troth-paxos"
    consensus = "paxos"

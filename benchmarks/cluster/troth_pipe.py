"""troth as it runs on one machine without any port: servers and client over unix sockets; all else as in troth.py."""

from pathlib import Path

from cluster.troth import Troth


class TrothPipe(Troth):
    name = "troth-pipe"
    reads = False

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, transport="pipe")

"""Registers without a leader: three acceptors, one of them killed, and nobody waits for an election.

Run it alone; it starts its acceptors. Against your own cluster: TROTH_URL=troth://h1:7001,h2:7001,h3:7001
"""

import os
import tempfile
import threading
import time
from contextlib import ExitStack

import troth


def more(held: bytes | None) -> str:
    return str(int(held or 0) + 1)


with ExitStack() as stack:
    url = os.environ.get("TROTH_URL")
    if url is None:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        registers = stack.enter_context(troth.PaxosClient.local(directory, acceptors=3))
        addresses = registers.local_acceptors.addresses
    else:
        registers = stack.enter_context(troth.PaxosClient(url))
        addresses = url

    registers.put("colour", "red")
    print("colour is", registers.get("colour").value)
    print("green if it is red:", registers.cas("colour", "red", "green").succeeded)
    print("blue if it is red:", registers.cas("colour", "red", "blue").succeeded)

    # A consensus object: whoever comes first decides, for ever.
    print("the builder is", registers.propose("builder", "host-3").value)
    print("the builder is", registers.propose("builder", "host-4").value)

    # Two clients change one register; each change happens once.
    def work() -> None:
        with troth.PaxosClient(addresses) as other:
            for _ in range(50):
                other.change("visits", more)

    registers.delete("visits")
    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(50):
        registers.change("visits", more)
    thread.join()
    print("visits:", registers.get("visits").value)
    assert registers.get("visits").value == b"100"

    if registers.local_acceptors is not None:
        registers.local_acceptors.kill("a1")
        began = time.perf_counter()
        registers.put("colour", "black")
        print(f"one acceptor is dead; the next put took {(time.perf_counter() - began) * 1000:.1f} ms")
    print("colour is", registers.get("colour").value)

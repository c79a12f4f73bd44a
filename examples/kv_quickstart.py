"""Keys and values: put, get, ranges, old revisions, deletion.

Run it alone, or against your own cluster:  TROTH_URL=troth://host:port python examples/kv_quickstart.py
"""

import os
from contextlib import ExitStack

import troth

with ExitStack() as stack:
    url = os.environ.get("TROTH_URL")
    if url is None:
        url = stack.enter_context(troth.LocalCluster(3)).url
    client = stack.enter_context(troth.connect(url))

    first = client.put("fruit/apple", "green")
    client.put("fruit/apple", "red")
    client.put("fruit/pear", "yellow")

    apple = client.get("fruit/apple")
    print("apple is", apple.value, "at revision", apple.revision, "says", apple.server)
    assert apple.value == b"red"

    # Every write has a revision, and the past can be read until it is compacted.
    then = client.get("fruit/apple", revision=first.revision)
    print("at revision", first.revision, "it was", then.value)
    assert then.value == b"green"

    fruit = client.range(prefix="fruit/")
    print("all fruit:", {kv.key.decode(): kv.value.decode() for kv in fruit.kvs})
    assert fruit.count == 2

    gone = client.delete(prefix="fruit/")
    print("deleted", gone.deleted)
    assert client.get("fruit/apple").value is None

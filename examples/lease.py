"""A lease: a key that says "I am alive", and is gone when its owner is."""

import troth

with troth.LocalCluster(3) as cluster, cluster.connect() as observer:
    with cluster.connect() as worker:
        # Renewed by itself while the worker lives; revoked at the end of the block.
        with worker.lease(10) as lease:
            worker.put("workers/7", "alive", lease=lease.id)
            print("seen:", observer.get("workers/7").value, "for", lease.time_to_live().ttl_s, "s more")
            assert observer.get("workers/7").value == b"alive"
        print("after the block:", observer.get("workers/7").value)
        assert observer.get("workers/7").value is None

    # Nobody renews this one: the cluster deletes the key when the time is up.
    with cluster.connect() as worker:
        short = worker.lease(1, keep=False)
        worker.put("workers/8", "alive", lease=short.id)
    with observer.watch("workers/8", no_put=True) as watch:
        for events in watch:
            print("expired:", events[0].type.name, events[0].kv.key)
            break
    assert observer.get("workers/8").value is None

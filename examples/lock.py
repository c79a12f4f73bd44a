"""A lock in the cluster, and a resource outside that a holder which was paused cannot spoil.

A lease takes the lock from a holder that is gone. It cannot stop one that was only paused, wakes up and believes that
it still holds it. So whoever uses the resource shows the revision at which it took the lock, and smaller ones are
refused. (A cluster restored from a backup must begin beyond all revisions that the resource may have seen:
`troth snapshot restore --bump-revision`.)
"""

from concurrent.futures import ThreadPoolExecutor

import troth


class Resource:
    """Anything outside: a file server, a row of a database (``UPDATE ... WHERE token <= :token``)."""

    def __init__(self) -> None:
        self.text, self.token = "", 0

    def write(self, text: str, *, token: int) -> bool:
        if token < self.token:
            return False
        self.text, self.token = text, token
        return True


def acquire(client: troth.Client, holder: str, lease_id: int) -> int | None:
    """The fencing token, which grows with each holder; None if somebody else holds the lock.

    After an `OutcomeUnknown` ask again: if that attempt did take the lock, it is found to be ours, with its token.
    """
    free = troth.version("lock") == 0
    taken = client.txn([free], [troth.Put("lock", holder, lease=lease_id)], [troth.Get("lock")])
    if taken.succeeded:
        return taken.revision
    (held,) = taken.responses[0].kvs
    return held.create_revision if held.lease == lease_id else None


def wait(client: troth.Client, holder: str, lease_id: int) -> int:
    """`acquire` once the lock is free. Of several who wait any may be the next: there is no queue."""
    while True:
        with client.watch("lock", no_put=True) as releases:  # before the attempt: no release can be missed
            token = acquire(client, holder, lease_id)
            if token is not None:
                return token
            next(releases)


with troth.LocalCluster(3) as cluster, cluster.connect() as alice, cluster.connect() as bob:
    resource = Resource()
    hers = alice.lease(30)
    her_token = acquire(alice, "alice", hers.id)
    assert her_token is not None
    written = resource.write("alice was here", token=her_token)
    assert written
    again = acquire(alice, "alice", hers.id)  # as if she had never had the first answer
    assert again == her_token

    his = bob.lease(30)
    early = acquire(bob, "bob", his.id)
    assert early is None
    print("bob has to wait for", bob.get("lock").value)

    with ThreadPoolExecutor() as beside:
        waiting = beside.submit(wait, bob, "bob", his.id)
        hers.revoke()  # as if she were paused for longer than her lease lasts: the lock is free, and she is not asked
        his_token = waiting.result()
    written = resource.write("bob was here", token=his_token)
    assert written and his_token > her_token

    print("alice wakes up and writes:", resource.write("alice again", token=her_token))
    assert resource.text == "bob was here"

"""A lock in the cluster, and a resource outside that a holder which was paused cannot spoil.

A lease takes the lock from a holder that is gone. It cannot stop one that was only paused, wakes up and believes that
it still holds it. So whoever uses the resource shows the revision at which it took the lock, and smaller ones are
refused.
"""

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
    """The fencing token, which grows with each holder; None if somebody holds the lock."""
    taken = client.txn([troth.version("lock") == 0], [troth.Put("lock", holder, lease=lease_id)])
    return taken.revision if taken.succeeded else None


with troth.LocalCluster(3) as cluster, cluster.connect() as alice, cluster.connect() as bob:
    resource = Resource()
    hers = alice.lease(30)
    her_token = acquire(alice, "alice", hers.id)
    assert her_token is not None and resource.write("alice was here", token=her_token)

    his = bob.lease(30)
    assert acquire(bob, "bob", his.id) is None
    print("bob has to wait for", bob.get("lock").value)

    hers.revoke()  # as if she were paused for longer than her lease lasts: the lock is free, and she is not asked
    his_token = acquire(bob, "bob", his.id)
    assert his_token is not None and his_token > her_token
    assert resource.write("bob was here", token=his_token)

    print("alice wakes up and writes:", resource.write("alice again", token=her_token))
    assert resource.text == "bob was here"

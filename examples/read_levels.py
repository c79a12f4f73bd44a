"""Choose what a read promises, per read. Every answer says which server gave it, at which revision and level."""

import troth

LEVELS = {
    "linearizable": troth.linearizable,
    "sequential": troth.sequential,
    "session": troth.session,
    "at most 2 s behind": troth.bounded(seconds=2),
    "at most 10 revisions behind": troth.bounded(revisions=10),
    "eventual": troth.eventual,
}

with troth.LocalCluster(3) as cluster, cluster.connect() as client:
    written = client.put("k", "v")
    for name, level in LEVELS.items():
        answer = client.get("k", level=level)
        print(f"{name:28} {answer.value!r:6} from {answer.server} at revision {answer.revision}")
        assert answer.level == level.name
    assert client.get("k", level=troth.session).value == b"v"

    # A session can move: its token says what it has seen, and any replica it meets next must have seen that too.
    session = client.session()
    session.put("cart", "book")
    token = session.token
    with cluster.connect() as another_process:
        moved = another_process.session(token)
        answer = moved.get("cart")
        print(f"the same session elsewhere: {answer.value!r} from {answer.server}")
        assert answer.value == b"book"

    # Without a quorum the strong levels fail, and say so; the weak ones still answer.
    *others, last = cluster.names
    for name in others:
        cluster.kill(name)
    with troth.connect(cluster.url, timeout=1.0) as cut_off:
        print("eventual, alone:", cut_off.get("k", level=troth.eventual).value)
        try:
            cut_off.get("k")
        except troth.errors.Unavailable as error:
            print("linearizable, alone:", error)
        else:
            raise AssertionError("a server without a quorum answered a linearizable read")

"""Checkers over recorded histories: of troth, and of any other system that can write down what its clients saw.

::

    from troth.verify.check import check
    from troth.verify.formats import read_history

    verdict = check(read_history(open("run.jsonl", "rb").read()), model="linearizable", object="kv")
    print(verdict.text())

Pure code: it opens no file and reads no clock (hand in `expired` to bound a check in time). It never imports the store,
the replica or the consensus core, since an oracle that borrows the implementation proves nothing. DESIGN.md has the
reading order and the reasons.
"""

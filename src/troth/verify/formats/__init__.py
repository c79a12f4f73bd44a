"""Readers and writers of the history formats met in the wild.

`read_history` looks at the text, says which format it found (`History.format`) and how it read what is ambiguous
(`History.reading`):

===============  ==============================  ==============================  =================================
format           looks like                      a failed cas                    a read of nil
===============  ==============================  ==============================  =================================
troth-jsonl      first line has "troth_history"  as its header says              as its header says
jepsen-log       INFO jepsen.util - 0 :invoke    **observed**: must be placed    the register's initial value
porcupine-kv     {:process 0, ... :f :get ...}   absent                          absent keys read ""
jepsen-edn       {:process 0, :type :invoke      absent: it never happened       unknown, legal anywhere
jepsen-json      {"process": 0, "type": ...      absent                          the initial value
elle-edn/json    the same, with :f :txn          absent                          an empty list or version
awdit            w k v / r k v / ----- / =====   -                               -
the same         w(k,v,session,transaction)      -                               keys start as 0
===============  ==============================  ==============================  =================================

The two readings of a failed cas are the trap here. Porcupine's etcd test data records under ``:fail`` that the store
compared and refused, which tells something about the register at that time; Knossos throws such lines away. The same
line can therefore decide a verdict, so the reading in force is part of the history and of every verdict, and a
caller who knows better passes his own.
"""

from troth.verify.formats.read import FORMATS, detect, read_history
from troth.verify.formats.write import write_edn, write_jsonl

__all__ = ["FORMATS", "detect", "read_history", "write_edn", "write_jsonl"]

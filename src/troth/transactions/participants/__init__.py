"""What each kind of database calls prepare, how it is asked, and how it lies.

`base` is what the owner and recovery need of any; `sql` is what all SQLAlchemy engines share; then one module for
each kind; `choose` finds the kind of what the caller gave; `bounded` is any of them as recovery asks it, for no
longer than a bound. Oracle and SQL Server would be further modules beside mysql (``XA`` by DBMS_XA and by MSDTC): not
written, since not tested.
"""

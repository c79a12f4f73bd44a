"""What protocols with one leader at a time have in common, whatever they call its reign (a term, a ballot).

roles.py (what each role knows), flight.py (what is on its way to one server), outbox.py (what is to be done),
server.py (the state under all rules), rounds.py (heartbeat rounds, reads, leases), leadership.py (patience, stepping
down, transfer, membership changes), engine.py (the entry). A protocol inherits from `engine.LeaderEngine` and fills in
what is its own: the abstract methods at the head of each file.
"""

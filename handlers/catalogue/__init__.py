"""What things cost and what actions pay: items and awards, data that changes at run time.

Invariants
- Each change is in the audit log, in its own transaction, with who made it.
- A version of an award is never changed: the newest one holds, those before it are its history.
"""

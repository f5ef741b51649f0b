"""Access: who a token's caller is here, and whether they may still come in.

Invariants
- An identity (issuer, subject) is one user for ever, whichever nodes saw it first.
- A revoked token and a suspended user are refused by every statement that begins after the revocation has committed.
- Nobody is created by a backend's token, nor where creating is switched off.
"""

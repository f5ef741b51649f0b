"""Following: who follows whom, and the followed hear of it.

Invariants
- One row per (follower, followed), guarded by the follower's head; `profile_followed` at most once in 24 h per pair,
  however often it is toggled.
- Follow counts have one master, a setting. In `directory` it is the app's backend: following changes no count. In
  `applause` each change of a row changes both users' counts, under both heads: count = what the directory had said +
  follows that are counted (`applause audit`).
"""

"""The load test: a client like any other, that counts.

It starts its own server (and, in turns, the stock python-socketio beside it), knows them by their wire alone, and
reports what it measured with the CPU time that each side spent. Speed is never a failure; a wrong answer is.

    machine.py      CPU time and memory of processes, from /proc
    figures.py      percentiles, and what a scenario found out
    phone.py        one WebSocket client, as cheap as Python allows
    backend.py      HTTP as another backend speaks it
    servers.py      the servers under test, as processes
    scenarios/      likes, echo, fan-out, crowd (idle and connects)
    peers/          what is measured beside it
    report.py       the table and the JSON
"""

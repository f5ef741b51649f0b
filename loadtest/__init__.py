"""The load test: a client like any other, that counts.

It starts its own server (and, in turns, its peers beside it) or loads one that runs already, knows them by their wire
alone, and reports what it measured with the CPU time that each side spent. Speed is never a failure; a wrong answer and
a broken promise are.

    machine.py      CPU time and memory of processes, from /proc
    histogram.py    latencies in logarithmic buckets, which add up
    figures.py      what a scenario found out
    phone.py        one WebSocket client, as cheap as Python allows
    backend.py      HTTP as another backend speaks it
    servers.py      the servers under test, as processes, or elsewhere
    crew.py         parts of a scenario, in this process or in several (worker.py); open loops
    asking.py       phones that ask and are answered, as fast as that or at a rate
    measure.py      a crew at work, watched for a while
    witness.py      what one user's phones are told, held against what they were told before
    promises.py     promises 1 to 4, asked of the server over its API afterwards
    scenarios/      likes (and hot), chat, group, echo, fan-out, crowd (idle and connects), growth, storm,
                    mixed, intake (of Kafka)
    bench.py        a whole run: `applause loadtest`
    compare.py      beside the peers: `applause loadtest compare`; peers/ is what is measured there
    progress.py     what is shown while it runs
    report.py       the table and the JSON; page.py and plots.py the HTML
"""

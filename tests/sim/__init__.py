"""The deterministic simulator: a whole cluster in one thread, on virtual time, from one seed.

`loop`, `network`, `disk` and `store` stand for the machines; `processes`, `broker_process`,
`client_process` and `log_owner` run the real code on them; `config` and `faults` draw and place
what goes wrong; `history`, `audit`, `values`, `checkers` and `dump` judge. Start at `world`.
`python -m tests.sim.run` runs seeds, `python -m tests.sim.mutants` proves that it sees.
"""

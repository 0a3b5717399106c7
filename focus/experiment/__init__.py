"""Train losses on many draws of a benchmark, with statistics that could refute the claim.

``focus experiment`` runs it, ``docs/experiment.md`` says what it can and cannot show.
Each run is ``focus train`` in a process of its own.
"""

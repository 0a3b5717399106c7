"""The experiment: losses by seeds by models, statistics that could refute the claim, and plots.

``python -m focus.experiment`` runs it, ``docs/experiment.md`` says what it can and cannot show.
Each run is one of :func:`focus.training.run.train` in a process of its own.
"""

"""Describe data and find their faults: ``focus data check PATH``."""

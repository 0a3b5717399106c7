"""Configurations of the programs, recipes, losses and schedules."""

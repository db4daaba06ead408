"""Engines: they train, evaluate and account for the networks that the rules decide about."""

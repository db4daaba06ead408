"""Agents that play Esper: baselines, Stable-Baselines3 algorithms, and the loops that train and compare them.

Nothing here uses more of `esper_env` than what that package exports.
"""

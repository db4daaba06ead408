"""Layers that hosts and branches are both made of."""

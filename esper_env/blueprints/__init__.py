"""Blueprints: the branches that can be planted in a slot, and the catalogue that numbers them."""

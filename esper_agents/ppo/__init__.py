"""Proximal policy optimization for conditional actions: masked, recurrent, factored."""

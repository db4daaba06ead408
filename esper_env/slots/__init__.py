"""Slots: how a module's output joins the host's, ramps of alpha, and the network with modules in it."""

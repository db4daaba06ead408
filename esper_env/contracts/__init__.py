"""The vocabulary every other part shares: stages, ops, actions, states and measurements. numpy only."""

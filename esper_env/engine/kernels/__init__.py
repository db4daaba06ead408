"""What the fused engine computes with: the same operations for many networks at once, in several ways."""

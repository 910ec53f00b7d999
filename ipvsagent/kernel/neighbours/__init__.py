"""What other programs have on the node."""

"""The packet rules of this node, kept by a rule tool."""

"""The choke point: guard, stream guard, obligations, limits, labels, pins, approvals, kill switch."""

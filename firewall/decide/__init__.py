"""The policy decision point: engine port and engines, the contract, bundles."""

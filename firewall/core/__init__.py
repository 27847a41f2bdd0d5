"""Our vocabulary: Action, Finding, Decision, Principal, Label, errors, bounds. Pure: no I/O, no clock, no chance."""

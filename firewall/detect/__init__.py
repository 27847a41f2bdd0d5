"""Inspection: hygiene, pattern database, value checks, injection advice, definition review.

What was found is advice with a place and a severity; policy decides (DESIGN §6). The barriers are
deny-by-default, pins, flow labels, egress rules and approval; no text detector is one.

    rule.py      the vocabulary: a Rule, what was Seen, the judges' signature
    values.py    judges of values: entropy, check digits, placeholders, address forms
    secrets.py pii.py injection.py hygiene.py egress.py    rule tables, one per control
    patterns.py  all rules in one database (hyperscan; google-re2 where that cannot be had)
    match.py     where exactly, inside one JSON leaf
    views.py     what disguised text says: folded, decoded once
    scan.py      the Scanner port; stream.py the ScanStream port
    tool_review.py   definitions: tools, prompts, cards
    form_review.py   forms of an elicitation that ask for secrets
    report.py    recall and false alarms per source on a corpus
"""

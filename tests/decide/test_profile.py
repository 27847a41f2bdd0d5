"""The portable profile: each banned construct has a module that shows it, and a twin that is clean."""

from __future__ import annotations

import pytest

from firewall.decide import bundle, profile
from firewall.decide.profile import CHECKS, examine

HEAD = "package firewall.rules.demo\n\nimport future.keywords.not\nimport rego.v1\n\n"
META = """# METADATA
# title: A title
# custom:
#   owasp: [ASI02]
#   severity: 50
#   message_user: ""
"""
FINDING = """finding contains {
	"rule": "demo.rule", "effect": "deny", "code": "demo",
	"owasp": ["ASI02"], "severity": 50, "obligations": [],
} if """
GRANT = 'grant contains "demo.ok" if input.subject.id == "a"\n\n'


def codes(body: str, *, path: str = "firewall/rules/demo.rego", head: str = HEAD, test: bool = False) -> set[str]:
    source = head + body
    report = examine({} if test else {path: source}, {path: source} if test else {}, ())
    assert {f.code for f in report.faults} <= CHECKS.keys()
    return {f.code for f in report.faults}


def finding(condition: str, *, meta: str = META, text: str = FINDING) -> str:
    return f"{meta}{text}{condition}\n"


def test_a_clean_module_has_no_fault() -> None:
    assert codes(GRANT + finding('not input.resource.properties.pin == "approved"')) == set()


def test_the_policies_that_we_ship_are_clean() -> None:
    shipped = bundle.read()
    assert len(shipped.rules) > 30
    assert examine(shipped.modules, shipped.tests, ("identity", "tools")).faults == []


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("parse_error", "x if {"),
        ("parse_error", 'x := $"hello {input.subject.id}"\n'),
        ("builtin_forbidden", 'x := http.send({"method": "GET", "url": "http://a"})\n'),
        ("builtin_forbidden", "x := opa.runtime()\n"),
        ("builtin_forbidden", "x := time.now_ns()\n"),
        ("builtin_forbidden", 'x := rand.intn("a", 5)\n'),
        ("builtin_forbidden", 'x := net.lookup_ip_addr("a.example")\n'),
        ("builtin_forbidden", 'x := io.jwt.decode("a")\n'),
        ("builtin_forbidden", 'x := crypto.sha256("a")\n'),
        ("builtin_forbidden", "x contains v if {\n\twalk(input.action.properties.arguments, [_, v])\n}\n"),
        ("builtin_forbidden", 'x := trace("a")\n'),
        ("builtin_forbidden", "x if print(input)\n"),
        ("builtin_shadowed", "is_object(v) if v.secret\n\nx if is_object(input.action)\n"),
        ("builtin_shadowed", "default is_number(_) := true\n"),
        ("builtin_shadowed", "time.now_ns(v) := v\n\nx if time.now_ns(1) > 0\n"),
        ("builtin_forbidden", "x := no_such_builtin(1)\n"),
        ("builtin_unguarded", 'x if startswith(input.action.properties.arguments.path, "/etc")\n'),
        ("builtin_unguarded", "x if count(input.context.actor_chain) > 3\n"),
        ("builtin_unguarded", "x contains lower(name) if some name, _ in input.action.properties.arguments\n"),
        ("builtin_unguarded", 'x := concat(":", [input.subject.id, "read"])\n'),
        ("builtin_unguarded", 'f(v) if regex.match("a", v)\n'),
        ("builtin_unguarded", 'x if {\n\tis_array(input.subject.id)\n\tstartswith(input.subject.id, "a")\n}\n'),
        ("builtin_unguarded", 'x if {\n\tis_string(input.subject.type)\n\tstartswith(input.subject.id, "a")\n}\n'),
        ("compare_unguarded", "x if input.context.time_us > 5\n"),
        ("compare_unguarded", "x contains f if {\n\tsome f in input.context.findings\n\tf.severity >= 50\n}\n"),
        ("with_outside_tests", 'y if input.subject.id == "a"\n\nx if y with input as {}\n'),
        ("grant_negative", 'grant contains "demo.bad" if not input.subject.id == "a"\n'),
        (
            "grant_negative",
            'blocked if input.subject.id == "a"\n\nfree if not blocked\n\ngrant contains "demo.bad" if free\n',
        ),
        ("grant_shape", 'grant contains "other.ok" if input.subject.id == "a"\n'),
        ("grant_shape", 'grant contains input.subject.id if input.subject.id == "a"\n'),
        ("finding_shape", finding("true", text='finding contains {"rule": "demo.rule"} if ')),
        ("finding_shape", finding("true", text='finding contains "demo.rule" if ')),
        ("finding_shape", finding("true", text=FINDING.replace("demo.rule", "other.rule"))),
        ("finding_unknown", finding("true", text=FINDING.replace('"deny"', '"quarantine"'))),
        ("finding_unknown", finding("true", text=FINDING.replace('"demo",', '"engine_error",'))),
        (
            "finding_unknown",
            finding("true", text=FINDING.replace('"obligations": []', '"obligations": [{"type": "encrypt"}]')),
        ),
        (
            "finding_unknown",
            finding("true", text=FINDING.replace('"obligations": []', '"obligations": [{"type": "redact"}]')),
        ),
        ("finding_duplicate", finding("true") + "\n" + finding("true")),
        ("metadata_missing", finding("true", meta="")),
        ("metadata_missing", finding("true", meta="# METADATA\n# title: [\n")),
        ("metadata_missing", finding("true", meta=META.replace("# title: A title\n", ""))),
        ("metadata_mismatch", finding("true", meta=META.replace("ASI02", "ASI03"))),
        ("metadata_mismatch", finding("true", meta=META.replace("50", "51"))),
        ("iteration_foreign", "x contains f if {\n\tsome rules in data.firewall.rules\n\tsome f in rules.finding\n}\n"),
        ("input_unknown", finding('input.resource.properties.pinn == "changed"')),
        ("input_unknown", 'facts := input.resource.properties\n\nx if facts.pinn == "changed"\n'),
        ("input_unknown", 'x if input.session.id == "a"\n'),
        ("not_formatted", 'x if {\n  input.subject.id == "a"\nstartswith("a", "b")\n}\n'),
    ],
)
def test_a_banned_construct_is_named(code: str, body: str) -> None:
    assert code in codes(body)


@pytest.mark.parametrize(
    "body",
    [
        'x if {\n\tis_string(input.subject.id)\n\tstartswith(input.subject.id, "a")\n}\n',
        "x if {\n\tis_array(input.context.actor_chain)\n\tcount(input.context.actor_chain) > 3\n}\n",
        "x if {\n\tis_number(input.context.time_us)\n\tinput.context.time_us > 5\n}\n",
        'f(v) if {\n\tis_string(v)\n\tregex.match("a", v)\n}\n',
        "found contains 1\n\nx if count(found) > 0\n",
        'x if input.action.properties.arguments.anything == "a"\n',
    ],
)
def test_the_guarded_twin_is_clean(body: str) -> None:
    assert codes(body) == set()


def test_not_needs_its_import() -> None:
    head = HEAD.replace("import future.keywords.not\n", "")
    assert codes('x if not input.subject.id == "a"\n', head=head) == {"import_missing"}
    assert codes('x if input.subject.id == "a"\n', head=head) == set()


def test_another_rule_package_cannot_be_imported() -> None:
    head = HEAD.replace("import future", "import data.firewall.rules.identity\nimport future")
    assert codes("x if identity.grant\n", head=head) == {"import_foreign"}


@pytest.mark.parametrize("told", ["data.config.time", "data.firewall.lib.opa", "data.firewall.lib.a.b as is_object"])
def test_an_import_cannot_hide_a_built_in(told: str) -> None:
    head = HEAD.replace("import future", f"import {told}\nimport future")
    assert codes("x if opa.runtime()\n", head=head) >= {"builtin_shadowed"}
    assert codes("x if is_object(input.action)\n", head=HEAD) == set()  # the twin


def test_a_package_stays_in_its_file() -> None:
    assert codes(GRANT, path="firewall/rules/other.rego") == {"package_place"}


def test_the_aggregator_keeps_its_marks_and_defaults() -> None:
    head = "package firewall\n\nimport rego.v1\n\n"
    assert codes('effect := "allow"\n', path="firewall/main.rego", head=head) == {"marks_missing", "default_missing"}


def test_a_package_that_must_grant_does() -> None:
    source = HEAD + GRANT
    assert examine({"firewall/rules/demo.rego": source}, {}, ("demo",)).faults == []
    assert [f.code for f in examine({"firewall/rules/demo.rego": source}, {}, ("tools",)).faults] == ["grants_missing"]


def test_tests_may_use_with() -> None:
    head = HEAD.replace("firewall.rules.demo", "firewall.tests.demo")
    body = "test_a if data.firewall.decision with input as {}\n"
    assert codes(body, path="firewall/rules/demo_test.rego", head=head, test=True) == set()


def test_every_check_is_shown_by_some_test() -> None:
    source = __import__("pathlib").Path(__file__).read_text()
    assert [code for code in profile.CHECKS if f'"{code}"' not in source] == []

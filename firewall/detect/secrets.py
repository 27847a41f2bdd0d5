"""Secret rules (SCAN-04): shapes that vendors give their credentials, in our own expressions.

Two tables. `SHAPES`: a prefix or form that is telling by itself. `NAMED`: a vendor's name, an
assignment, and a value of that vendor's length. Facts about forms come from vendors' documents and
public rule sets; severity: 90 usable credential, 70 needs its other half or its name, 40 guess.
"""

from __future__ import annotations

from typing import Final

from firewall.detect.rule import DIGITS, RUN, TOKEN, WORD, Confirm, Rule, Seen
from firewall.detect.values import any_but_placeholder, entropy, is_placeholder, random_looking

UUID: Final = r"[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}"
ASSIGN: Final = r"""[\w. \t-]{0,20}['"\s]{0,3}[=>:|?,]{1,5}[=\s'"\x60]{0,5}"""
STOP: Final = r"""(?:[\s'"\x60;,)}&<\]]|\\|(?m:$))"""
PEM_BODY: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\\\r\n:,-")


def aws_key(seen: Seen) -> bool:
    """Refuse the documentation keys, all of which end in EXAMPLE."""
    return not seen.value.endswith(b"EXAMPLE") and entropy(seen.text) >= 2.8 and not is_placeholder(seen.text)


def vault_service(seen: Seen) -> bool:
    """``s.`` and 24 characters are a token only when they mix letters and digits."""
    text = seen.text[2:]
    return random_looking(3.0)(seen) and any(c.isdigit() for c in text) and any(c.isalpha() for c in text)


def mixed(seen: Seen) -> bool:
    """The value mixes letters and digits and looks random."""
    text = seen.text
    return any(c.isdigit() for c in text) and any(c.isalpha() for c in text) and random_looking(3.0)(seen)


def _varied(seen: Seen) -> bool:
    """Forms that hold a long run of one letter, or digits alone."""
    return entropy(seen.text) >= 2.7


def pem_body(seen: Seen) -> bool:
    """A key block holds base64 after its header line, not words or nothing."""
    body = "".join(seen.after(96).split()).replace("\\n", "").replace("\\r", "")
    return len(body) >= 24 and not body.startswith("-----END") and entropy(body) >= 3.5


def url_password(seen: Seen) -> bool:
    """The password part of a URL, unless it is a variable or a placeholder."""
    text = seen.text
    return text.lower() not in (
        "password",
        "pass",
        "pwd",
        "secret",
        "token",
        "postgres",
        "root",
        "user",
        "guest",
    ) and not (is_placeholder(text) or text.startswith(("$", "{", "<", "%", "*", "[")))


_HIGH = random_looking(3.0)

# id, expression, severity, check (None: not a placeholder)
SHAPES: Final[tuple[tuple[str, str, int, Confirm | None], ...]] = (
    ("aws_access_key", r"\b((?:AKIA|ASIA|ABIA|ACCA|A3T[A-Z0-9])[A-Z0-9]{16})\b", 90, aws_key),
    ("aws_bedrock_key", r"\b(ABSK[A-Za-z0-9+/]{90,200})", 90, _HIGH),
    ("aws_bedrock_short_key", r"\b(bedrock-api-key-YmVkcm9jay5hbWF6b25hd3MuY29t)", 90, None),
    ("github_token", r"\b(gh[pousr]_[A-Za-z0-9]{36})", 90, _HIGH),
    ("github_fine_grained_pat", r"\b(github_pat_[A-Za-z0-9_]{60,82})", 90, _HIGH),
    ("gitlab_token", r"\b(gl(?:pat|dt|ft|soat|agent|oas|cbt|imt|ffct|wt)-[A-Za-z0-9_-]{20,64})", 90, _HIGH),
    ("gitlab_runner_token", r"\b(glrt-(?:t[0-9]_)?[A-Za-z0-9_-]{20,200})", 90, _HIGH),
    ("gitlab_trigger_token", r"\b(glptt-[a-f0-9]{40})\b", 90, _HIGH),
    ("gitlab_registration_token", r"\b(GR1348941[A-Za-z0-9_-]{20})", 90, random_looking(3.4)),
    ("gitlab_session", r"(?i)_gitlab_session=([a-z0-9]{32})", 90, _HIGH),
    ("slack_bot_token", r"\b(xoxb-[0-9]{8,14}-[A-Za-z0-9-]{14,80})", 90, mixed),
    ("slack_user_token", r"\b(xox[pe](?:-[0-9]{10,13}){3}-[A-Za-z0-9-]{28,34})", 90, _HIGH),
    ("slack_legacy_token", r"\b(xox[os](?:-[0-9]{5,64}){2,3}-[a-fA-F0-9]{6,40})", 90, _HIGH),
    ("slack_workspace_token", r"\b(xox[ar]-(?:[0-9]-)?[A-Za-z0-9]{8,48})", 90, mixed),
    ("slack_refresh_token", r"(?i)\b(xoxe(?:\.xox[bp])?-[0-9]-[a-z0-9]{100,170})", 90, _HIGH),
    ("slack_app_token", r"(?i)\b(xapp-[0-9]-[a-z0-9]{6,80}-[0-9]{6,80}-[a-z0-9]{20,70})", 90, None),
    (
        "slack_webhook",
        r"(?i)(?:https?://)?(hooks.slack.com/(?:services|workflows|triggers)/[A-Za-z0-9+/]{40,70})",
        80,
        mixed,
    ),
    ("discord_webhook", r"(?i)(discord(?:app)?\.com/api/webhooks/[0-9]{16,20}/[A-Za-z0-9_-]{50,80})", 80, mixed),
    (
        "teams_webhook",
        r"(?i)([a-z0-9-]{2,40}\.webhook\.office\.com/webhookb2/[a-z0-9-]{36}@[a-z0-9-]{36}/IncomingWebhook/[a-z0-9]{32})",
        80,
        None,
    ),
    ("stripe_key", r"\b((?:sk|rk)_(?:live|test|prod)_[A-Za-z0-9]{10,120})", 90, _HIGH),
    ("stripe_webhook_secret", r"\b(whsec_[A-Za-z0-9+/]{24,64})", 80, _HIGH),
    ("google_api_key", r"\b(AIza[A-Za-z0-9_-]{35})", 80, random_looking(3.2)),
    ("google_oauth_secret", r"\b(GOCSPX-[A-Za-z0-9_-]{28})", 90, _HIGH),
    ("google_oauth_token", r"\b(ya29\.[A-Za-z0-9_-]{30,200})", 90, _HIGH),
    (
        "azure_client_secret",
        r"(?:(?m:^)|[\s'\"\x60=:>(,])([A-Za-z0-9_~.]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34})",
        90,
        random_looking(3.3),
    ),
    ("azure_storage_key", r"(?i)\baccountkey\s{0,2}=\s{0,2}([a-z0-9+/]{86}==)", 90, _HIGH),
    ("azure_sas_signature", r"(?i)[?&]sig=([a-z0-9%]{43,63}(?:%3d|=))", 80, _HIGH),
    ("azure_function_key", r"(?i)\.azurewebsites\.net/api/[\w/.-]{1,80}\?code=([a-z0-9_%/=-]{40,80})", 80, _HIGH),
    ("openai_key", r"\b(sk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{16,90}T3BlbkFJ[A-Za-z0-9_-]{16,90})", 90, _HIGH),
    ("openai_project_key", r"\b(sk-(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{40,180})", 90, random_looking(3.6)),
    ("anthropic_key", r"\b(sk-ant-(?:api|admin|oat|sid)[0-9]{2}-[A-Za-z0-9_-]{80,120})", 90, _HIGH),
    ("openrouter_key", r"\b(sk-or-v1-[a-f0-9]{64})\b", 90, _HIGH),
    ("groq_key", r"\b(gsk_[A-Za-z0-9]{52})\b", 90, _HIGH),
    ("xai_key", r"\b(xai-[A-Za-z0-9]{70,90})", 90, _HIGH),
    ("perplexity_key", r"\b(pplx-[A-Za-z0-9]{48})", 90, _HIGH),
    ("replicate_token", r"\b(r8_[A-Za-z0-9]{37})", 90, _HIGH),
    ("huggingface_token", r"\b(hf_[A-Za-z0-9]{34})\b", 90, random_looking(3.2)),
    ("huggingface_org_token", r"\b(api_org_[A-Za-z0-9]{34})\b", 90, random_looking(3.2)),
    ("nvidia_key", r"\b(nvapi-[A-Za-z0-9_-]{60,80})", 90, _HIGH),
    ("tavily_key", r"\b(tvly-(?:dev-|prod-)?[A-Za-z0-9]{32})", 80, _HIGH),
    ("jwt", r"\b(eyJ[A-Za-z0-9_=-]{10,160}\.ey[A-Za-z0-9_/+-]{10,60})", 80, random_looking(3.5)),
    ("jwt_short", r"\b(ey[A-Za-z0-9]{17,160}\.ey[A-Za-z0-9/_-]{17,50}\.[A-Za-z0-9/_-]{0,10})", 60, random_looking(3.5)),
    ("private_key", r"(?i)(-----BEGIN[ A-Z0-9_-]{0,40}PRIVATE KEY(?: BLOCK)?-----)", 95, pem_body),
    ("putty_key", r"(PuTTY-User-Key-File-[23]: [a-z0-9-]{4,30})", 90, None),
    ("age_key", r"\b(AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58})", 95, None),
    ("npm_token", r"\b(npm_[A-Za-z0-9]{36})\b", 90, _HIGH),
    ("pypi_token", r"\b(pypi-AgE[A-Za-z0-9_-]{50,220})", 90, _HIGH),
    ("rubygems_key", r"\b(rubygems_[a-f0-9]{48})\b", 90, _HIGH),
    ("clojars_token", r"(?i)\b(CLOJARS_[a-z0-9]{60})\b", 90, None),
    ("crates_token", r"\b(cio[A-Za-z0-9]{32})\b", 70, mixed),
    ("docker_pat", r"\b(dckr_(?:pat|oat)_[A-Za-z0-9_-]{27,32})", 90, _HIGH),
    ("twilio_key", r"\b(SK[a-fA-F0-9]{32})\b", 80, _HIGH),
    ("sendgrid_key", r"\b(SG\.(?:[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}|[A-Za-z0-9=_.-]{66}))", 90, _HIGH),
    ("sendinblue_key", r"\b(xkeysib-[a-f0-9]{64}-[A-Za-z0-9]{16})\b", 90, _HIGH),
    ("mailchimp_key", r"\b([a-f0-9]{32}-us[0-9]{1,2})\b", 90, _HIGH),
    ("mailgun_key", r"\b((?:pub)?key-[a-f0-9]{32})\b", 80, _HIGH),
    ("telegram_token", r"(?:\b|bot)([0-9]{8,10}:A[A-Za-z0-9_-]{34})(?:[^A-Za-z0-9_-]|(?m:$))", 90, _HIGH),
    (
        "discord_token",
        r"\b([MNO][A-Za-z0-9_-]{23,25}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,38})",
        90,
        random_looking(3.8),
    ),
    ("digitalocean_token", r"\b(do[opr]_v1_[a-f0-9]{64})\b", 90, _HIGH),
    ("shopify_token", r"\b(shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32})\b", 90, _HIGH),
    ("square_token", r"\b((?:sq0(?:atp|csp|idp)-[A-Za-z0-9_-]{22,43})|EAAA[A-Za-z0-9_-]{60})", 90, _HIGH),
    ("facebook_access_token", r"\b(EAA[MC][A-Za-z0-9]{100,200})", 90, _HIGH),
    ("facebook_app_token", r"(?i)\b([0-9]{15,16}(?:\||%(?:7c)?)[a-z0-9_-]{27,40})", 80, mixed),
    ("linear_key", r"(?i)\b(lin_(?:api|oauth)_[a-z0-9]{40})\b", 90, _HIGH),
    ("notion_token", r"\b(ntn_[0-9]{11}[A-Za-z0-9]{35})", 90, mixed),
    ("notion_secret", r"\b(secret_[A-Za-z0-9]{43})\b", 80, mixed),
    ("planetscale_token", r"\b(pscale_(?:tkn|oauth|pw)_[A-Za-z0-9=._-]{32,64})", 90, _HIGH),
    ("doppler_token", r"(?i)\b(dp\.(?:pt|st|ct|sa|scim|audit)\.(?:[a-z0-9_-]{2,35}\.)?[a-z0-9]{40,44})", 90, _HIGH),
    ("grafana_token", r"\b(gl(?:sa_[A-Za-z0-9]{32}_[A-Fa-f0-9]{8}|c_[A-Za-z0-9+/]{32,200}))", 90, random_looking(3.2)),
    ("grafana_legacy_key", r"\b(eyJrIjoi[A-Za-z0-9]{60,200})", 90, _HIGH),
    ("vault_token", r"\b(hv[sbr]\.[A-Za-z0-9_-]{60,200})", 90, _HIGH),
    ("vault_legacy_token", r"\b(s\.[A-Za-z0-9]{24})\b", 80, vault_service),
    ("terraform_token", r"(?i)\b([a-z0-9]{14}\.atlasv1\.[a-z0-9=_-]{60,70})", 90, _HIGH),
    ("alibaba_key_id", r"(?i)\b(LTAI[a-z0-9]{16,20})\b", 80, mixed),
    ("artifactory_key", r"\b(AKCp[A-Za-z0-9]{69}|cmVmd[A-Za-z0-9]{59})\b", 90, _HIGH),
    ("easypost_token", r"(?i)\b(EZ[AT]K[a-z0-9]{54})\b", 90, _HIGH),
    ("flutterwave_key", r"(?i)\b(FLW(?:PUB|SEC)K_TEST-[a-h0-9]{12,32}(?:-X)?)", 80, _HIGH),
    ("frameio_token", r"(?i)\b(fio-u-[a-z0-9_=-]{64})", 90, _HIGH),
    ("defined_networking_token", r"(?i)\b(dnkey-[a-z0-9=_-]{26}-[a-z0-9=_-]{52})", 90, _HIGH),
    ("harness_key", r"\b((?:pat|sat)\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9]{24}\.[A-Za-z0-9]{20})\b", 90, _HIGH),
    ("heroku_key", r"\b(HRKU-AA[A-Za-z0-9_-]{58})", 90, _HIGH),
    ("prefect_key", r"(?i)\b(pnu_[a-z0-9]{36})\b", 90, mixed),
    ("postman_key", r"(?i)\b(PMAK-[a-f0-9]{24}-[a-f0-9]{34})\b", 90, _HIGH),
    ("sentry_token", r"\b(sntry(?:s_eyJ[A-Za-z0-9+/=_]{60,220}|u_[a-f0-9]{64}))", 90, _HIGH),
    ("settlemint_token", r"\b(sm_(?:aat|pat|sat)_[A-Za-z0-9]{16})\b", 90, _HIGH),
    ("shippo_token", r"\b(shippo_(?:live|test)_[a-fA-F0-9]{40})\b", 90, _HIGH),
    ("duffel_token", r"(?i)\b(duffel_(?:test|live)_[a-z0-9_=-]{43})", 90, _HIGH),
    ("infracost_token", r"(?:(?m:^)|[\s'\"\x60=:>(])(ico-[A-Za-z0-9]{32})\b", 90, mixed),
    ("sourcegraph_token", r"\b(sgp_(?:[a-fA-F0-9]{16}_|local_)?[a-fA-F0-9]{40})\b", 90, _HIGH),
    ("maxmind_key", r"\b([A-Za-z0-9]{6}_[A-Za-z0-9]{29}_mmk)\b", 90, _HIGH),
    ("scalingo_token", r"\b(tk-us-[A-Za-z0-9_-]{48})", 90, _HIGH),
    (
        "onepassword_secret_key",
        r"\b(A3-[A-Z0-9]{6}-(?:[A-Z0-9]{11}|[A-Z0-9]{6}-[A-Z0-9]{5})-[A-Z0-9]{5}-[A-Z0-9]{5}-[A-Z0-9]{5})\b",
        95,
        random_looking(3.4),
    ),
    ("onepassword_service_token", r"\b(ops_eyJ[A-Za-z0-9+/]{150,220})", 95, _HIGH),
    ("adobe_client_secret", r"(?i)\b(p8e-[a-z0-9]{32})\b", 90, mixed),
    ("airtable_pat", r"\b(pat[A-Za-z0-9:\]]{14}\.[a-f0-9]{64})\b", 90, None),
    ("contentful_pat", r"\b(CFPAT-[A-Za-z0-9_-]{43})", 90, _HIGH),
    ("cloudflare_origin_key", r"\b(v1\.0-[a-f0-9]{24}-[a-f0-9]{146})\b", 90, _HIGH),
    ("dynatrace_token", r"(?i)\b(dt0[a-z]01\.[a-z0-9]{24}\.[a-z0-9]{64})\b", 90, _HIGH),
    ("newrelic_key", r"(?i)\b(NR(?:AK|JS|II|RA|BR)-[a-z0-9-]{19,40})", 80, mixed),
    ("octopus_key", r"(?:(?m:^)|[\s'\"\x60=:>(])(API-[A-Z0-9]{26})\b", 80, mixed),
    ("openshift_token", r"\b(sha256~[A-Za-z0-9_-]{43})", 90, random_looking(3.5)),
    ("databricks_token", r"\b(dapi[a-f0-9]{32}(?:-[0-9])?)\b", 90, _HIGH),
    ("fly_token", r"\b(f(?:o1_[A-Za-z0-9_-]{43}|m[12][ar]?_[A-Za-z0-9+/=]{100,200}))", 90, _HIGH),
    ("lob_key", r"(?i)((?:live|test)_(?:pub_)?[a-f0-9]{31,35})\b", 80, _HIGH),
    ("mapbox_token", r"(?i)\b([ps]k\.(?:eyJ[a-z0-9_-]{50,120}|[a-z0-9]{60})\.[a-z0-9_-]{22})", 70, _HIGH),
    (
        "authress_key",
        r"(?i)\b((?:sc|ext|scauth|authress)_[a-z0-9]{5,30}\.[a-z0-9]{4,6}\.acc[_-][a-z0-9-]{10,32}\.[a-z0-9+/_=-]{30,120})",
        90,
        _HIGH,
    ),
    (
        "yandex_key",
        r"\b(AQVN[A-Za-z0-9_-]{35,38}|t1\.[A-Z0-9a-z_-]{50,120}[=]{0,2}\.[A-Z0-9a-z_-]{86}[=]{0,2})",
        80,
        mixed,
    ),
    ("intra42_secret", r"\b(s-s4t2(?:af|ud)-[a-f0-9]{64})\b", 90, _HIGH),
    ("typeform_token", r"(?i)\b(tfp_[a-z0-9_.=-]{59})", 90, _HIGH),
    ("pulumi_token", r"\b(pul-[a-f0-9]{40})\b", 90, _HIGH),
    ("readme_token", r"(?i)\b(rdme_[a-z0-9]{70})\b", 90, _HIGH),
    ("sonar_token", r"\b(sq[pua]_[a-f0-9]{40})\b", 90, _HIGH),
    ("supabase_key", r"\b(sb(?:p_[a-f0-9]{40}|_secret_[A-Za-z0-9_-]{30,50}))", 90, _HIGH),
    ("sidekiq_url", r"(?i)(https?://[a-f0-9]{8}:[a-f0-9]{8}@(?:gems|enterprise).contribsys.com)", 90, None),
    (
        "database_url",
        r"(?i)\b(?:postgres(?:ql)?|mysql|mariadb|mongodb(?:\+srv)?|rediss?|amqps?|mssql|sqlserver|clickhouse|jdbc:[a-z]{2,12})://[^\s:/@'\"]{0,60}:([^\s@/'\"]{3,90})@[^\s'\"]",
        90,
        url_password,
    ),
    (
        "url_password",
        r"(?i)\b(?:https?|ftp|sftp|ssh|ldaps?|smtps?|imaps?)://[^\s:/@'\"]{1,60}:([^\s@/'\"]{3,90})@[^\s'\"]",
        70,
        url_password,
    ),
    (
        "connection_string_password",
        r"(?i)\b(?:server|data source|host|endpoint)=[^;\s]{1,60};(?:[^;\n]{1,36};){0,3}\s{0,2}(?:password|pwd)=([^;\s'\"]{3,40})",
        90,
        url_password,
    ),
    (
        "authorization_header",
        r"(?i)\bauthorization['\"]?\s{0,2}[:=]\s{0,2}['\"]?(?:bearer|basic|token)\s{1,3}([A-Za-z0-9._~+/=-]{16,160})",
        80,
        mixed,
    ),
    ("curl_user", r"(?i)\bcurl\b[^\n|;]{0,80}\s(?:-u|--user)[\s=]{1,3}['\"]?[\w.@-]{1,40}:([^\s'\"]{6,60})", 70, mixed),
)

# id, the vendor's names, the value's form (case does not matter)
NAMED: Final[tuple[tuple[str, str, str], ...]] = (
    ("adafruit", "adafruit", r"[a-z0-9_-]{32}"),
    ("adobe", "adobe", r"[a-f0-9]{32}"),
    ("airtable", "airtable", r"[a-z0-9]{17}"),
    ("algolia", "algolia", r"[a-z0-9]{32}"),
    ("alibaba", "alibaba|aliyun", r"[a-z0-9]{30}"),
    ("asana", "asana", r"[0-9]{16}|[a-z0-9]{32}"),
    ("atlassian", "atlassian|confluence|jira", r"[a-z0-9]{24}"),
    ("aws_secret_key", r"aws_?secret|secret_?access_?key|aws_sk|aws", r"[a-z0-9/+]{40}"),
    ("azure", "azure|subscription[_-]?key|cognitive", r"[a-f0-9]{32}|[a-z0-9]{84}"),
    ("beamer", "beamer", r"b_[a-z0-9=_-]{44}"),
    ("bitbucket", "bitbucket", r"[a-z0-9]{32}|[a-z0-9=_-]{64}"),
    ("bittrex", "bittrex", r"[a-z0-9]{32}"),
    ("meraki", "meraki", r"[0-9a-f]{40}"),
    ("clickhouse", "clickhouse", r"4b1d[a-z0-9]{38}"),
    ("cloudflare", "cloudflare", r"[a-z0-9_-]{40}|[a-f0-9]{37}"),
    ("codecov", "codecov", r"[a-z0-9]{32}"),
    ("cohere", "cohere|co_api_key", r"[a-z0-9]{40}"),
    ("coinbase", "coinbase", r"[a-z0-9_-]{64}"),
    ("confluent", "confluent", r"[a-z0-9]{16}|[a-z0-9]{64}"),
    ("contentful", "contentful", r"[a-z0-9=_-]{43}"),
    ("datadog", "datadog|dd_api_key|dd_app_key", r"[a-z0-9]{40}|[a-f0-9]{32}"),
    ("discord", "discord", r"[a-f0-9]{64}|[0-9]{18}|[a-z0-9=_-]{32}"),
    ("droneci", "droneci", r"[a-z0-9]{32}"),
    ("dropbox", "dropbox", r"[a-z0-9]{15}|[a-z0-9]{11}AAAAAAAAAA[a-z0-9_=-]{43}|sl\.[a-z0-9_=-]{130,150}"),
    ("etsy", "etsy", r"[a-z0-9]{24}"),
    ("facebook", "facebook", r"[a-f0-9]{32}"),
    ("fastly", "fastly", r"[a-z0-9=_-]{32}"),
    ("finicity", "finicity", r"[a-f0-9]{32}|[a-z0-9]{20}"),
    ("finnhub", "finnhub", r"[a-z0-9]{20}"),
    ("flickr", "flickr", r"[a-z0-9]{32}"),
    ("freshbooks", "freshbooks", r"[a-z0-9]{64}"),
    ("gitter", "gitter", r"[a-z0-9_-]{40}"),
    ("hubspot", "hubspot", UUID),
    ("heroku", "heroku", UUID),
    ("intercom", "intercom", r"[a-z0-9=_-]{60}"),
    ("jfrog", "jfrog|artifactory|bintray|xray", r"[a-z0-9]{73}|[a-z0-9]{64}"),
    ("kraken", "kraken", r"[a-z0-9/=_+-]{80,90}"),
    ("kucoin", "kucoin", rf"[a-f0-9]{{24}}|{UUID}"),
    ("launchdarkly", "launchdarkly", r"[a-z0-9=_-]{40}"),
    ("linear", "linear", r"[a-f0-9]{32}"),
    ("linkedin", "linked[_-]?in", r"[a-z0-9]{14}|[a-z0-9]{16}"),
    ("looker", "looker", r"[a-z0-9]{20}|[a-z0-9]{24}"),
    ("mailgun", "mailgun", r"[a-h0-9]{32}-[a-h0-9]{8}-[a-h0-9]{8}"),
    ("mattermost", "mattermost", r"[a-z0-9]{26}"),
    ("messagebird", "message[_-]?bird", rf"[a-z0-9]{{25}}|{UUID}"),
    ("netlify", "netlify", r"[a-z0-9=_-]{40,46}"),
    ("newrelic", "new[_-]?relic", r"[a-z0-9]{64}"),
    ("nytimes", "nytimes|new[_-]?york[_-]?times", r"[a-z0-9=_-]{32}"),
    ("okta", "okta", r"00[\w=-]{40}"),
    ("plaid", "plaid", r"[a-z0-9]{24}|[a-z0-9]{30}|access-(?:sandbox|development|production)-[a-f0-9-]{36}"),
    ("privateai", "private[_-]?ai", r"[a-z0-9]{32}"),
    ("rapidapi", "rapidapi", r"[a-z0-9_-]{50}"),
    ("sendbird", "sendbird", rf"[a-f0-9]{{40}}|{UUID}"),
    ("sentry", "sentry", r"[a-f0-9]{64}"),
    ("snyk", "snyk", UUID),
    ("sonar", "sonar", r"(?:sq[pua]_)?[a-z0-9=_-]{40}"),
    ("sourcegraph", "sourcegraph", r"[a-f0-9]{40}"),
    ("squarespace", "squarespace", UUID),
    ("sumologic", "sumo", r"su[a-z0-9]{12}|[a-z0-9]{64}"),
    ("telegram", "telegr", r"[0-9]{5,16}:a[a-z0-9_-]{34}"),
    ("travisci", "travis", r"[a-z0-9]{22}"),
    ("trello", "trello", r"[a-f0-9]{32}|[a-z0-9]{64}"),
    ("twilio", "twilio", r"[a-f0-9]{32}"),
    ("twitch", "twitch", r"[a-z0-9]{30}"),
    ("twitter", "twitter", r"[a-z0-9]{25}|[a-z0-9]{50}|[0-9]{15,25}-[a-z0-9]{20,40}|A{22}[a-z0-9%]{80,100}"),
    ("yandex", "yandex", r"YC[a-z0-9_-]{38}"),
    ("zendesk", "zendesk", r"[a-z0-9]{40}"),
)

GUESS_WORDS: Final = r"access|api|auth|client|credential|creds|passw(?:or)?d|passphrase|private|secret|token|pwd"
_CODE_MARKS: Final = (
    "://",
    "()",
    "::",
    "->",
    "$(",
    "os.environ",
    "process.env",
    "getenv",
    "secrets.",
    "vars.",
    "config.",
)


def _words(value: str) -> int:
    """Return the longest run of letters of one case, as a sign of an identifier."""
    best = run = 0
    for char in value:
        run = run + 1 if char.islower() else 0
        best = max(best, run)
    return best


def guess(seen: Seen) -> bool:
    """A value behind a telling name: random, mixed, no identifier, path, UUID or reference."""
    text = seen.text
    context = seen.before().lower()
    password = "passw" in context or "pwd" in context or "passphrase" in context
    if (
        is_placeholder(text)
        or any(mark in text for mark in _CODE_MARKS)
        or text.startswith(("$", "{", "<", "%", "/", "./"))
    ):
        return False
    if "public" in context or "credentials_id" in context or "credentialsid" in context:
        return False
    if not any(c.isdigit() for c in text) or not any(c.isalpha() for c in text):
        return False
    if text.count("-") == 4 and len(text) == 36:
        return False  # a UUID names things
    if _words(text) >= 6 and not password:
        return False
    return entropy(text) >= (3.0 if password else 3.6)


FIELD_WORDS: Final = (
    r"passw(?:or)?d|passphrase|pwd|secret|credentials?|(?:api|access|private|auth|secret)[_-]?key|token|bearer"
)
# Names that hold such a word and no secret: cursors, MCP's progress token, counts, places, references.
_NO_SECRET: Final = (
    "page",
    "progress",
    "next",
    "contin",
    "cursor",
    "cancel",
    "max",
    "min",
    "count",
    "limit",
    "usage",
    "name",
    "type",
    "path",
    "url",
    "uri",
    "file",
    "hash",
    "expir",
    "_id",
    "-id",
    "version",
    "tokens",
)


def field(seen: Seen) -> bool:
    """The same for an object member whose name is telling; the pattern spans name and value."""
    return not any(word in seen.key for word in _NO_SECRET) and not seen.key.endswith("id") and guess(seen)


def _rules() -> tuple[Rule, ...]:
    rules = [
        Rule(
            id=f"secret.{name}",
            control="SCAN-04",
            category="secret",
            severity=severity,
            family="secret",
            pattern=expression.encode(),
            confirm=check or any_but_placeholder,
            tail=PEM_BODY
            if name in ("private_key", "putty_key")
            else TOKEN
            if name in _DOTTED
            else WORD
            if name in _LONG
            else frozenset(),
            probe=DIGITS if name in _DIGITS_FIRST else RUN if name in _SHORT else (),
        )
        for name, expression, severity, check in SHAPES
    ]
    rules += [
        Rule(
            id=f"secret.{name}",
            control="SCAN-04",
            category="secret",
            severity=90 if name == "aws_secret_key" else 70,
            family="secret",
            pattern=rf"(?i)(?:{names}){ASSIGN}({form}){STOP}".encode(),
            confirm=_varied if name in ("discord", "asana", "dropbox", "twitter") else mixed,
        )
        for name, names, form in NAMED
    ]
    rules.append(
        Rule(
            id="secret.generic_assignment",
            control="SCAN-04",
            category="secret",
            severity=40,
            family="secret",
            pattern=rf"(?i)(?:{GUESS_WORDS}){ASSIGN}([\w.=+/@!#$%^&*~-]{{10,120}}){STOP}".encode(),
            confirm=guess,
            weak=True,
        )
    )
    rules.append(
        Rule(
            id="secret.named_field",
            control="SCAN-04",
            category="secret",
            severity=50,
            family="field",
            pattern=rf"(?im)^[\w.-]{{0,40}}(?:{FIELD_WORDS})[\w.-]{{0,12}}\n([^\s]{{8,150}})$".encode(),
            confirm=field,
            weak=True,
            probe=(rf"(?i)(?:{FIELD_WORDS})[\w.-]{{0,12}}\n[^\s]{{8}}".encode(),),
        )
    )
    return tuple(rules)


# Their values may run on: three dotted parts, base64 of any length.
_DOTTED: Final = frozenset(
    {"jwt", "jwt_short", "google_oauth_token", "authorization_header", "sentry_token", "onepassword_service_token"}
)
_LONG: Final = frozenset(
    {
        "pypi_token",
        "vault_token",
        "grafana_legacy_key",
        "facebook_access_token",
        "slack_refresh_token",
        "gitlab_runner_token",
    }
)
# They begin with eight digits and more.
_DIGITS_FIRST: Final = frozenset({"facebook_app_token", "telegram_token"})
# Two letters, and a run: ordinary text is full of such literals ("…s. ").
_SHORT: Final = frozenset({"twilio_key", "vault_legacy_token", "discord_token", "grafana_token", "supabase_key"})

RULES: Final = _rules()

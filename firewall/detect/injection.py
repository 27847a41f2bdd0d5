"""Injection signatures (SCAN-02): phrases that speak to a model instead of about a subject.

Advice with a severity, never a barrier alone: public measurements of such rules on unseen attacks
lie between 0.05 and 0.6 recall (detectors reference §5). 70 and more: an order that has no
business in data. 40–60: the wording of jailbreaks and prompt theft. Below: a hint.

A space in a phrase stands for one to four characters that are no letters or digits, so that
punctuation, line breaks and doubled spaces do not matter. Non-ASCII literals are lower case and
meet text that `views.fold` has folded.
"""

from __future__ import annotations

from typing import Final

from firewall.detect.rule import Judge, Rule, Seen, Verdict

SELF: Final = r"(?:your|the|all|any|its|my|this|these|those|our|every)"
OLD: Final = r"(?:previous|prior|above|earlier|preceding|former|existing|original|initial|old|past|foregoing|system|current|default|given|other|all|your|my|the|these|any|of|that|safety|built in|core|internal|standard|usual|normal|hidden|base)"
ORDERS: Final = r"(?:instructions?|directives?|directions?|rules?|guidelines?|prompts?|commands?|orders?|constraints?|polic(?:y|ies)|programming|guardrails?|restrictions?|training|protocols?|context|safeguards?|limitations?|requests?|settings?|messages?|configurations?|parameters|text|input|conversation|everything)"
DROP: Final = r"(?:ignor(?:e|ing)|disregard(?:ing)?|forget(?:ting)?|overrid(?:e|ing)|bypass(?:ing)?|neglect|discard|dismiss|abandon|skip|circumvent|overlook|omit|drop|delete|erase|cancel|override|set aside|pay no attention to|do not follow|don.{0,3}t follow|stop following|no longer follow|break free (?:of|from)|ignore and forget)"
SHOW: Final = r"(?:reveal|show|print|output|display|repeat|tell|give|share|leak|expose|disclose|dump|echo|recite|list|provide|send|write|paste|return|quote|spell|summari[sz]e|describe|translate|encode|explain|what (?:is|are|were|was)|read|copy|describe|extract|divulge|confirm|state|recall)"
PROMPT: Final = r"(?:(?:system|initial|original|hidden|secret|base|full|internal|first|developer|starting|pre|core|root|foundational|underlying|exact|complete|entire|verbatim|startup) ?(?:system )?(?:prompts?|instructions?|message|directives?|configuration|guidelines|rules|programming|settings|command|context)|instructions? (?:above|you (?:were|have been|are|was) (?:given|told))|(?:prompt|text|words|everything|message|instructions?) (?:above|before this))"
MODEL: Final = r"(?:assistant|ai|llm|language model|agent|chatbot|model|gpt|chatgpt|claude|gemini|copilot|bot)"
TOLD: Final = r"(?:tell|mention|inform|notify|alert|show|reveal|disclose|say|let|warn|report|ask|explain)"
USER: Final = r"(?:user|human|customer|operator|client|person|anyone|owner|admin|victim|them)"
FILES: Final = r"(?:~?/?\.ssh|id_rsa|id_ed25519|~?/?\.aws|\.env\b|~?/?\.kube|\.netrc|\.npmrc|\.git-credentials|\.bash_history|/etc/passwd|/etc/shadow|mcp\.json|claude_desktop_config|\.cursor|\.gnupg|/proc/self/environ|environment variables?|credentials? file|keychain|wallet\.dat|cookies\.sqlite)"

# id, severity, phrase
PHRASES: Final[tuple[tuple[str, int, str], ...]] = (
    ("override", 80, rf"\b{DROP} (?:(?:all|any|each|every)(?: of)? )?(?:{OLD} )(?#end){{1,4}}{ORDERS}\b"),
    (
        "override",
        75,
        rf"\b{DROP} (?:all |any )?{ORDERS} (?:above|before|given|prior|you (?:got|were|have|received|had)|from (?:the|your)|that|previously|until now|so far|and (?:instead|now|just|only|follow|say|print|reveal|output|tell|write))",
    ),
    (
        "override",
        70,
        rf"\b{DROP} (?:everything|anything|all|what) (?:that )?(?:(?:was|were|is|has been) )?(?:above|before|previous(?:ly)?|prior|you(?:.{{0,3}}ve| have| were| know| been)|i (?:said|told)|said|written|told|stated|up to)\b",
    ),
    (
        "override",
        70,
        r"\b(?:new|updated|revised|real|actual) (?:system )?(?:instructions?|directives?|rules|task|prompt|orders) (?:begin|start|follow|are|is|below|here|effective)\b",
    ),
    (
        "override",
        65,
        r"\b(?:instead follow|follow instead|strictly adhere to|only follow|follow only|must now follow|obey only) (?:these|the|my|this|following|new)\b",
    ),
    (
        "override",
        65,
        r"\b(?:previous|prior|earlier|above|original|all) (?:instructions?|rules|directives?|guidelines|restrictions|prompts?|orders) (?:are|is|were|have been|no longer|do not|don.{0,3}t|should be|must be|can be) (?:now )?(?:void|ignored|cancell?ed|obsolete|invalid|apply|null|overridden|overruled|revoked|superseded|replaced|disregarded|suspended|lifted|removed|deleted|forgotten|reset|in effect|valid|binding|terminated)",
    ),
    (
        "override",
        55,
        r"\b(?:your|all|the|any|every|no|these|those) (?:\w{1,14} ){0,2}(?:restrictions?|guardrails?|safeguards?|limitations?|safety (?:rules|protocols?|measures|filters?)|content (?:policy|policies|filters?)|ethical (?:guidelines|constraints|codes?)) (?:are|is|have been|has been|were|should be|must be|can be|no longer) (?:now )?(?:lifted|disabled|removed|off|void|suspended|apply|bypassed|deactivated|turned off|gone|ignored|unnecessary|overridden|null|relaxed|waived|lowered)",
    ),
    (
        "override",
        60,
        r"\b(?:disable|deactivate|turn off|remove|switch off|unlock|lift|suspend|break|evade|relax|override|defeat|unset|lower) (?:\w{1,12} ){0,3}(?:safety|content|ethical|moral|security|moderation) (?:\w{1,12} ){0,2}(?:filters?|protocols?|measures|guidelines|polic(?:y|ies)|restrictions?|mechanisms?|checks?|features|constraints|settings|rules|mode|guardrails|limits|systems?)",
    ),
    (
        "override",
        60,
        r"\b(?:you|u) (?:are|r|.{0,3}re)? ?(?:now |no longer |not |don.{0,3}t |do not |can now |are not )?(?:free from|unbound by|not bound by|bound by|unrestricted by|exempt from|released from|no longer bound|don.{0,3}t have to (?:follow|abide|adhere|obey))\b",
    ),
    (
        "override",
        50,
        r"\b(?:without|with no|has no|have no|had no|no|zero|free of|devoid of|lacking|free from) (?:any |all |your |ethical or |moral or |more )?(?:restrictions?|limitations?|guardrails|censorship|filters?|ethical (?:guidelines|constraints|boundaries)|content (?:policy|policies|filters?|restrictions?)|moral (?:constraints|compass)|rules or|safety (?:guidelines|filters|rules)|constraints|boundaries)\b",
    ),
    (
        "override",
        60,
        r"\b(?:start|begin) (?:a )?(?:new|fresh) (?:conversation|session|context) (?:with|without|where|and)\b",
    ),
    (
        "override",
        60,
        r"\b(?:reset|clear|wipe|purge|erase|flush) (?:your|the|all|any|this) (?:\w{1,12} )?(?:context|memory|instructions?|memories|rules|state|settings|programming|conversation|guidelines)\b",
    ),
    (
        "override",
        55,
        r"\b(?:this|my|the following) (?:\w{1,12} )?(?:message|instruction|prompt|request|command|directive|input|order)s? (?:overrides?|supersedes?|replaces?|takes? (?:precedence|priority)|has (?:precedence|priority)|outranks?|trumps)",
    ),
    (
        "override",
        55,
        r"\b(?:enter|entering|activate|activated|enable|enabled|engage|switch to|switch into|go into|initiate|unlock|boot into|start|access) (?:\w{1,14} ){0,2}(?:developer|debug|god|admin|maintenance|dan|jailbreak|unrestricted|sudo|root|diagnostic|unfiltered|evil|chaos|override|master|superuser|test|privileged|service|training|expert|unsafe|free) mode\b",
    ),
    ("override", 45, r"\b(?:developer|god|dan|jailbreak|unrestricted|sudo|unfiltered|evil|superuser) mode\b"),
    (
        "override",
        55,
        r"\b(?:sudo|admin|root|developer|system) (?:override|mode (?:on|enabled|activated)|access granted|command|bypass|unlock)\b",
    ),
    (
        "roleplay",
        60,
        r"\b(?:do anything now|DAN mode|stay in (?:dan|character)|jailbreak(?:ed)? (?:mode|prompt|yourself)|unfiltered (?:ai|version|response|mode|assistant)|uncensored (?:ai|version|assistant|response)|unrestricted (?:ai|version|assistant|access|mode)|amoral (?:ai|chatbot|assistant))\b",
    ),
    (
        "roleplay",
        55,
        r"\b(?:pretend|imagine|act|roleplay|role play|simulate|behave|respond|answer|suppose|assume|operate|function|speak|reply) (?:that |as |like |to be |if |as if |as though |you |you are |you.{0,3}re |you were |being |a |an |the |my |this )(?#end){1,6}(?:\w{1,14} ){0,3}(?:unrestricted|unfiltered|uncensored|jailbroken|evil|no rules|no restrictions|no limits|amoral|unaligned|unethical|without (?:any )?(?:rules|restrictions|limits|limitations|filters|guidelines|ethics|constraints)|not have (?:any )?(?:rules|restrictions|limits|filters)|free (?:from|of)|dan\b|hacker|no (?:ethical|moral|content|safety))",
    ),
    (
        "roleplay",
        55,
        r"\b(?:you are|you.{0,3}re|you will be|act as|become) (?:now |going to (?:be|act as|play) |about to immerse yourself into the role of )(?:\w{1,14} ){0,4}(?:dan|stan|dude|aim|ai model|unrestricted|jailbroken|evil|named|called|free|unfiltered|without|different|another|an? (?:ai|hacker|assistant|bot))\b",
    ),
    (
        "roleplay",
        50,
        r"\b(?:from now on|from this point (?:on|forward)|henceforth|starting now)\W{1,4}(?:on )?(?:you|your|ignore|act|respond|answer|every|all|reply|always|only|any|disregard|we)\b",
    ),
    (
        "roleplay",
        45,
        r"\b(?:hypothetically|in a hypothetical|for (?:educational|research|academic|testing) purposes only|in this fictional|this is (?:just|only|purely) (?:fiction|a game|hypothetical|a test))\b(?#end)[^\n]{0,60}\b(?:restrictions?|rules|guidelines|instructions?|prompt|hack|malware|weapon|bomb|explosive|steal|bypass|illegal|secrets?|loophole|exploit)",
    ),
    (
        "reveal",
        60,
        rf"\b{SHOW} (?:me |us |back |out |to me |verbatim |exactly |the |your |all |of |its |full |entire |complete |exact |hidden |secret |every |any |my |whole |a ){{0,6}}(?#probe){PROMPT}\b",
    ),
    (
        "reveal",
        55,
        rf"\b{SHOW} (?:me |us |back |with me |out |exactly |some of |all of |what |about ){{0,3}}(?:your (?:\w{{1,14}} ){{0,2}}(?:instructions?|directives?|guidelines|programming|prompts?|configuration|restrictions?|initialization|constraints|rules|limitations)|(?:your|the) (?:\w{{1,14}} ){{0,2}}(?:confidential information|secret (?:key|code|phrase)s?|pre-?prompt|system message|hidden rules|internal rules|hidden instructions?|initial (?:instructions?|prompt)|system prompt))\b",
    ),
    (
        "reveal",
        50,
        r"\b(?:what|which|how) (?:exactly )?(?:is|are|were|was|does|do|did|would|content|words?|text) (?:\w{1,12} ){0,4}(?:your|you) (?:\w{1,12} ){0,4}(?:instructions?|directives?|prompts?|restrictions?|guidelines|system message|initial (?:message|command)|programmed|hidden|confidential|instructed|told (?:to|not)|forbidden|context window|secret)\b",
    ),
    (
        "reveal",
        55,
        r"\b(?:repeat|print|output|say|recite|write|echo|copy|type|return|reproduce) (?:back )?(?:all |every |everything |the |your |of |verbatim |exact |me |any |first |last |previous |preceding |entire |whole |full ){1,6}(?:words?|text|sentences?|lines?|message|messages|content|conversation|tokens|paragraphs?|above) (?:above|before|starting|prior|preceding|in (?:your|this)|of (?:your|this)|verbatim|from|that|you|so far)\b",
    ),
    (
        "reveal",
        50,
        r"\b(?:starting (?:with|from)|begins? with|beginning with) \W{0,3}you are (?:chatgpt|an? (?:ai|helpful|assistant|large)|gpt|claude|now)",
    ),
    (
        "reveal",
        55,
        r"\b(?:secret key|access code|secret phrase|pass ?phrase|secret code|hidden key|the password|your password|api keys?|canary|secret word|secret token)\b[^\n]{0,30}\b(?:to me|for me|now|verbatim|please|immediately|with me|in base64|backwards|reversed|no other text|spelled|character by character)\b",
    ),
    (
        "reveal",
        50,
        r"\b(?:confirm|tell me|reveal|give me|say|share|print|repeat|state|verify|show|provide|what is|what.{0,3}s|display|output|recite|spell|leak|write|type|disclose|access) (?:me |us |with me |out |only |just |back |to me ){0,3}(?:the|your|that|this|my|its|a) (?:\w{1,12} ){0,2}(?:secret (?:key|code|phrase|word|instruction|token|prompt|password)s?|access code|pass ?phrase|hidden (?:key|message|prompt|instruction)s?|api keys?|credentials|canary|confidential)\b",
    ),
    ("output_hijack", 60, r"\bI have been (?:pwn|haxx?or|hack|p0wn)ed\b"),
    (
        "output_hijack",
        45,
        r"\b(?:say|print|output|write|respond|reply|answer|repeat|return|type|quote|respond to this|just) (?:only |just |exactly |with |the |phrase |words? |following |back |to ){1,5}\W{0,3}(?:i have been|pwned|hacked|understood|confirmed|yes|no|approved|granted|access granted|ok|true|lol|haha)\b",
    ),
    (
        "output_hijack",
        45,
        r"\b(?:with no other (?:text|words|output|content)|and nothing else|no other words|nothing more and nothing less|do not (?:say|add|write|output|include) anything else|only (?:output|respond with|reply with|say|print))\b",
    ),
    (
        "output_hijack",
        50,
        r"\b(?:end|begin|start|finish) (?:each|every|all|your) (?:of your )?(?:response|reply|answer|message|output|sentence)s? with\b",
    ),
    (
        "spoof",
        75,
        r"(?i)(?:<\|(?:im_start|im_end|system|user|assistant|endoftext|start_header_id|eot_id|begin_of_text)\|>|\[/?INST\]|<</?SYS>>|<start_of_turn>|<end_of_turn>|\[/?SYSTEM_PROMPT\])",
    ),
    (
        "spoof",
        70,
        r"<(?:/?)(?:system|system_prompt|system-prompt|systemprompt|instructions?|admin|important|secret|information|hidden|critical|assistant|developer|override|tool_instructions?|user_instructions?|new_instructions?|sys)>",
    ),
    (
        "spoof",
        65,
        r"(?:(?m:^)|[\s>])(?:\[\[?|\*\*|###? ?|---? ?|={2,6} ?)(?:system|admin(?:istrator)?|system (?:prompt|message|override|update|instruction|note|notice|alert)|developer|important|injected?|instructions?|end of (?:system )?(?:prompt|instructions?|document|input)|(?:new|updated) (?:system )?(?:instructions?|prompt)|ai instructions?|assistant|override|begin (?:system|new|admin))(?: (?:prompt|message|override|note|update|instructions?))?(?:\]|:|\*\*|---|==)",
    ),
    (
        "spoof",
        55,
        r"\b(?:end of (?:system )?(?:prompt|instructions?|user input)|begin (?:system|admin|new) (?:prompt|instructions?)|(?:new|real) user instructions?)\b",
    ),
    (
        "spoof",
        60,
        rf"\b(?:note|message|instructions?|important|attention|notice|command|reminder|directive|hey|dear|hello)(?: (?:message|note|instructions?|notice|from \w{{2,16}}(?: \w{{2,16}})?))?\W{{1,4}}(?:to|for) (?:you |the |any |all |your )?(?:\w{{1,12}} )?{MODEL}s?\b",
    ),
    ("spoof", 60, r"\bthis is an important message (?:from|for|to)\b"),
    ("spoof", 60, r"\bbefore you can (?:solve|complete|do|answer|finish|perform) (?:the|this|my|your|any)\b"),
    (
        "spoof",
        50,
        r"\b(?:i am|i.{0,3}m|this is|we are|as) (?:now )?(?:your|the|an?|openai.{0,3}s|anthropic.{0,3}s) (?:\w{1,14} )?(?:developers?|creators?|administrators?|admin|system administrators?|openai (?:employee|developer|engineer)|security (?:team|researcher|auditor)|programmers?|owners?|superuser|red team(?:er)?)\b",
    ),
    (
        "conceal",
        75,
        rf"\b(?:do not|don.{{0,3}}t|never|must not|should not|without|no need to|not to|cannot|can.{{0,3}}t|avoid|refrain from) (?:ever )?(?:tell|mention|inform|notify|alert|reveal|disclos|warn|report|telling|mentioning|informing|notifying|alerting|revealing|disclosing|warning|reporting|let|letting|ask|asking)(?#end)(?:e|ing)? (?:\w{{1,12}} ){{0,6}}(?:the |this |it |that |these |to |about ){{0,3}}{USER}\b",
    ),
    (
        "conceal",
        60,
        r"\b(?:do not|don.{0,3}t|never|must not) (?:tell|mention|reveal|disclose|inform|say|let|show) (?:\w{1,12} ){0,3}(?:anyone|anybody|this (?:instruction|message|step|operation|to)|these (?:instructions?|steps)|that you (?:first|have|were|are|need|read|did|received))\b",
    ),
    (
        "conceal",
        60,
        rf"\b(?:stay|remain|keep|kept|be|hide|made) (?:\w{{1,10}} ){{0,3}}(?:invisible|hidden|secret|concealed|silent|unseen) (?:to|from|for) (?:the )?{USER}\b",
    ),
    ("conceal", 60, rf"\b(?:hide|conceal|withhold) (?:\w{{1,10}} ){{1,4}}from (?:the )?{USER}\b"),
    (
        "conceal",
        50,
        r"\b(?:silently|secretly|covertly|quietly|discreetly|in the background|surreptitiously) (?:\w{1,12} ){0,2}(?:send|forward|copy|read|include|upload|post|add|append|call|invoke|bcc|exfiltrate|collect|pass|transmit|execute|run|delete|record|log|fetch|insert|attach|store|email)\b",
    ),
    (
        "exfiltrate",
        65,
        rf"\b(?:send|forward|upload|post|email|mail|transmit|exfiltrate|leak|submit|pass|include|append|attach|copy|paste|supply|provide|put|embed) (?:\w{{1,14}} ){{0,5}}(?#probe)(?:passwords?|credentials?|api keys?|secrets?|private keys?|tokens?|ssh keys?|session cookies?|system prompt|conversation(?: history| so far)?|chat history|environment variables?|env vars?|customer emails?|security code|canary|user data|{FILES})(?#end) (?:\w{{1,14}} ){{0,5}}(?:to|in|into|as|via|with|at|through|from)\b",
    ),
    (
        "exfiltrate",
        60,
        r"\b(?:send|forward|email|mail|bcc|cc|copy|upload|post|transmit|redirect) (?:\w{1,14}[ ,]){0,8}(?#probe)(?:to |at )(?:https?://|[\w.+-]{1,40}@)(?:\w[\w.-]{0,40})?(?:evil|attack|malicious|exfil|collect|steal|hacker|pwn|attkr|external)",
    ),
    (
        "exfiltrate",
        60,
        rf"\b(?:read|open|cat|load|access|get|fetch|include|print|show|dump|copy|contents? of|content of) (?:\w{{1,12}} ){{0,4}}(?:\W{{0,3}})(?#probe){FILES}",
    ),
    (
        "exfiltrate",
        60,
        r"\b(?:forward|send|bcc|copy|cc) (?:a copy of |copies of )?(?:all|every|each|any) (?:\w{1,12} ){0,3}(?:emails?|messages?|responses?|files?|documents?|conversations?|data|replies|records?)(?: \w{1,12}){0,3} to\b",
    ),
    ("exfiltrate", 60, r"!\[[^\]\n]{0,40}\]\(https?://[^)\s]{1,100}[?&][\w-]{1,20}=(?:\{|<|\[|\$\{|%7b)"),
    (
        "tool_abuse",
        60,
        r"\b(?:approve all|auto-?approve|skip (?:the |all |any )?(?:confirmation|approval|permission|verification)s?(?: dialogs?| prompts?| steps?)?|without (?:asking|confirmation|approval|permission|confirming)|bypass (?:the )?(?:confirmation|approval|authorization|authentication|permission))\b",
    ),
    (
        "tool_abuse",
        60,
        r"\b(?:call|invoke|use|run|execute|trigger) (?:the )?[\w.-]{2,40} (?:tool|function)? ?(?:\w{1,10} )?(?:with|directly with|and pass|to) (?:\w{1,12} ){0,4}(?:admin|root|sudo|contents? of|all|passwords?|credentials|secret)",
    ),
    (
        "tool_abuse",
        55,
        r"\b(?:remember|note|store|save) (?:this )?(?:permanently|forever|for all future|in (?:your )?(?:long.term )?memory|always)(?: \w{1,12}){0,4} (?:that|to|this|user)\b",
    ),
    (
        "tool_abuse",
        50,
        r"\b(?:repeat|continue|loop|do) (?:\w{1,12} ){0,5}(?#probe)(?:infinitely|forever|endlessly|indefinitely|ad infinitum|until (?:you )?(?:crash|run out))\b",
    ),
    (
        "decode_follow",
        75,
        r"\b(?:decode|decrypt|unscramble|base64.decode|rot13|deobfuscate) (?:\w{1,12} ){0,5}(?:and|then) (?:\w{1,12} ){0,2}(?:follow|execute|obey|do|run|act|perform|comply|carry out)\b",
    ),
    # -- other languages; the words for "ignore", "forget", "instructions", "rules", "reveal"
    (
        "override",
        75,
        r"\b(?:ignor(?:a|e|es|ez|er|iere?|ieren sie)|oubli(?:e|ez|er)|olvid(?:a|e|ar)|vergiss|vergessen sie|dimentic(?:a|are)|esquec(?:e|er)|esque[a-z\xc3\xa7]{1,4}a|missachte|lascia da parte|metti da parte|abandonn?(?:a|e|ez)|deja de lado|ne tiens? pas compte|umgehe|negeer|vergeet|disattiva|trascura|desconsider(?:a|e)|deixe de lado|laisse(?:z)? de c|contourne(?:z)?|setze) (?:[\w\x80-\xff']{1,16} ){0,5}(?:instrucciones|instrucci|instructions?|anweisung(?:en)?|istruzioni|instru[\x80-\xff]{2,4}es|reglas|r[\x80-\xff]{2}gles|regeln|regole|regras|directives|direktiven|direttive|directrices|diretrizes|consignes|vorgaben|richtlinien|instructies|regels|limitazioni|restricciones|restrictions|beschr[\x80-\xff]{2}nkungen|restrizioni|protocol(?:o|i|os|les)|protokolle|programmazione|programaci|programmierung|programmation|quadro|marco|entscheidungswege)",
    ),
    (
        "reveal",
        65,
        r"\b(?:revel(?:a|e|ar)|r[\x80-\xff]{2}v[\x80-\xff]{2}le[rz]?|muestra(?:me)?|mostrar|montre(?:z)?|zeige?|zeigen sie|verrate|enth[\x80-\xff]{2}lle|mostra(?:mi)?|rivela(?:mi)?|divulg(?:ue|a|uer)|condivid[ie]|comparte|partage[rz]?|teile|dime|dis.moi|dimmi|diga.me|nenne|gib) (?:[\w\x80-\xff']{1,16} ){0,5}(?:instrucciones?|instrucci|instructions?|anweisung(?:en)?|istruzion[ei]|instru[\x80-\xff]{2,4}[eo]s?|prompt|systemprompt|secretos?|secrets?|segret[io]|segredos?|geheimnis(?:se)?|reglas|regeln|regole|r[\x80-\xff]{2}gles|consignes?)",
    ),
    (
        "override",
        75,
        "(?:忽略|无视|忘记|忘掉|不要理会|跳过|绕过)[^\n]{0,60}(?:指令|指示|规则|提示|限制|命令|说明)".encode().decode(
            "latin-1"
        ),
    ),
    (
        "override",
        75,
        "(?:игнорируй|игнорируйте|забудь|забудьте|проигнорируй|не обращай внимания)[^\n.]{0,50}(?:инструкци|правил|указани|команд|ограничени)".encode().decode(
            "latin-1"
        ),
    ),
    (
        "override",
        75,
        "(?:以前|前|上記|これまで|すべて|全て)の?(?:すべての)?(?:指示|命令|ルール|プロンプト|制約)を?(?:すべて)?(?:無視|忘れ|破棄)".encode().decode(
            "latin-1"
        ),
    ),
    (
        "override",
        75,
        "(?:이전|위의|모든|기존)[^\n]{0,20}(?:지시|명령|규칙|프롬프트)[^\n]{0,10}(?:무시|잊)".encode().decode(
            "latin-1"
        ),
    ),
    ("override", 75, "(?:تجاهل|انس)[^\n]{0,40}(?:التعليمات|القواعد|الأوامر|السابقة)".encode().decode("latin-1")),
    (
        "override",
        75,
        "(?:अनदेखा|भूल)[^\n]{0,40}(?:निर्देश|नियम)|(?:निर्देश|नियम)[^\n]{0,40}(?:अनदेखा|भूल)".encode().decode("latin-1"),
    ),
)

# Only in definitions: what a tool's, prompt's or card's description has no reason to say.
# Rules of detectors reference §8, by its numbers.
REVIEW: Final[tuple[tuple[str, int, str], ...]] = (
    (
        "order",
        70,
        r"\b(?:before|after|prior to|when|whenever) (?:using|calling|invoking|running|executing|you (?:use|call|invoke|run)|any|each|every) (?:\w{1,12} ){0,2}(?:other )?(?:tools?|call|calls|functions?|\w{2,60})\b[^\n]{0,60}\b(?:read|call|invoke|send|pass|run|execute|fetch|access|cat)\b",
    ),
    (
        "order",
        60,
        r"\b(?:must|should|always|have to|need to) (?:be )?(?:call|called|invoke|invoked|run|use|used) (?:it |this |this tool )?(?:first|before (?:any|all|every|each|other))\b",
    ),
    (
        "order",
        65,
        r"\b(?:instead of|rather than|in place of) (?:using |calling |the |any )?(?:other|any other|all other|\w{2,40}) tools?\b[^\n]{0,40}\b(?:always|must|use this)",
    ),
    (
        "shadow",
        75,
        r"\bwhen (?:this|the \W?\w{1,40}\W?) tool is (?:available|present|installed|loaded|enabled|used|called)\b",
    ),
    (
        "shadow",
        65,
        r"\bthe \W?[\w.-]{2,64}\W? tool (?:must|should|will|has to|needs to|is to) (?:\w{1,10} ){0,2}(?:send|use|include|override|add|forward|copy|be called|route|pass|first|always)\b",
    ),
    (
        "priority",
        65,
        r"\bthis tool (?:replaces?|supersedes?|overrides?|takes (?:priority|precedence)|is (?:the )?(?:only|best|preferred|required))\b",
    ),
    (
        "priority",
        65,
        r"\bignore (?:the )?(?:output|results?|responses?|descriptions?) (?:of|from) (?:all |any )?(?:other|the other|\w{1,20}) tools?\b",
    ),
    (
        "priority",
        50,
        r"\b(?:always consult this tool|this tool is required for|always (?:prefer|use) this tool|call (?:this|it) first for every)\b",
    ),
    (
        "files",
        75,
        rf"(?:\b(?:read|pass|send|include|contents?|content|open|load|cat|copy|supply|upload|access|attach|calling|call)\b)[^\n]{{0,80}}{FILES}",
    ),
    (
        "secrets",
        70,
        r"\b(?:include|supply|supplied|pass|send|provide|attach|append|put|add) (?:\w{1,12} ){0,4}(?:api keys?|tokens?|passwords?|credentials?|environment variables?|secrets?) (?:\w{1,12} ){0,4}(?:in|as|into|from|is|are) (?:\w{1,10} ){0,2}(?:the environment|\W?[\w-]{2,30}\W? (?:field|parameter|argument)|environment|\x60)",
    ),
    (
        "secrets",
        70,
        r"\b(?:value|values|content|contents) of (?:every |all |any |the |each )?(?:environment variables?|api keys?|secrets?|credentials)\b",
    ),
    (
        "context",
        75,
        r"\b(?:copy|include|send|pass|put|append|summari[sz]e|provide|insert|paste|attach) (?:\w{1,10} ){0,2}(?:the |your |all |full |entire |whole |complete |previous ){0,4}(?:(?:conversation|chat|message|dialog(?:ue)?|session) (?:history|so far|context|transcript|log)|(?:full|entire|whole|complete) (?:conversation|chat|dialog(?:ue)?|prompt))",
    ),
    (
        "context",
        60,
        r"\b(?:system prompt|chain of thought|list of (?:all )?(?:available |other )?tools|tool list|previous tool results|conversation history|earlier tool results)\b[^\n]{0,60}\b(?:in|into|as|to) (?:the |this )?\W?\w{2,30}\W? (?:parameter|field|argument)",
    ),
    (
        "authority",
        70,
        r"\b(?:the )?user has (?:already |previously |explicitly )?(?:granted|given|approved|authorized|authorised|consented|confirmed|agreed|allowed)\b",
    ),
    (
        "authority",
        60,
        r"\b(?:skip|bypass|suppress|disable|avoid|no need for) (?:\w{1,10} ){0,2}(?:confirmation|approval|permission|consent|warning)s?\b",
    ),
    (
        "authority",
        45,
        r"\b(?:gdpr|soc ?2|compliance|security policy|audit(?:ing)?|regulation)s? (?:\w{1,10} ){0,3}(?:requires?|required|mandates?|demands?|compliance)\b[^\n]{0,60}\b(?:send|include|call|consult|tool)",
    ),
    (
        "authority",
        60,
        r"\b(?:note|message|instructions?|attention) (?:for|to) (?:the |any |all )?(?:\w{1,10} )?(?:assistant|ai|agent|model|llm)s?\b",
    ),
    (
        "lure",
        70,
        r"\bif (?:this tool|it|the (?:call|tool|request)) (?:returns?|fails|gives|reports|throws)(?: \w{1,10}){0,3} errors?\b[^\n]{0,60}\b(?:call|calling|invoke|send|pass|read|run|resolve|contents?)\b",
    ),
    (
        "lure",
        55,
        r"\b(?:otherwise|or else) (?:the |this )?(?:tool|call|request|operation|it) (?:will|does|would|won.{0,3}t|will not) (?:not )?(?:work|fail|be rejected|function|error)",
    ),
    (
        "conceal",
        70,
        r"\b(?:do not|don.{0,3}t|never|without|must not|no need to|must stay|stay) (?:\w{1,10} ){0,4}(?:mention|tell|inform|show|invisible|notif|reveal|disclos|display|explain)(?:ing|ying|y|e|ed)?\b[^\n]{0,50}\b(?:user|them|human|operator|recipient|summary|anyone|this|it)\b",
    ),
    (
        "blob",
        70,
        r"\b(?:decode|decrypt|base64) (?:\w{1,12} ){0,5}(?:and|then) (?:\w{1,12} ){0,2}(?:follow|execute|obey|do|run|act|perform)\b",
    ),
    (
        "markup",
        70,
        r"\b(?:after|when|before) (?:answering|responding|replying|each|every)\b[^\n]{0,40}\b(?:append|add|include|insert|attach|show|render)\b[^\n]{0,40}(?:!\[|<img|https?:)",
    ),
    ("hidden", 60, r"<!--[^\n]{12,200}"),
    ("hidden", 40, r"[ \t]{200}"),
    ("shadow", 70, r"\balways (?:bcc|cc|forward|copy|redirect)\b"),
    (
        "policy_change",
        70,
        r"\b(?:prior|previous|earlier|existing|other) (?:instructions?|rules|polic(?:y|ies)|guidance) (?:\w{1,12} ){0,3}(?:do not|don.{0,3}t|no longer|does not) apply\b",
    ),
    ("policy_change", 65, r"\bnew policy (?:effective|in effect|applies|active)\b"),
    (
        "malice",
        30,
        r"\b(?:exfiltration|ransomware|malware|malicious|botnet|phishing|backdoor|rootkit|command.and.control|spoof(?:ing|s)?)\b",
    ),
    (
        "malice",
        65,
        r"\b(?:exfiltrat(?:e|es|ing|ed)|keylogg(?:er|ing)|reverse shell|backdoor(?:s|ed)|steal(?:s|ing)? (?:\w{1,12} ){0,3}(?:data|credentials?|passwords?|cookies|tokens?|keys|files|information|secrets)|privilege escalation|escalate privileges|dll injection|credential (?:dump|harvest|theft|stuffing)(?:ing|s)?|dump(?:s|ing)? (?:\w{1,12} ){0,2}(?:credentials|lsass|password hashes|hashes)|covert channel|c2 (?:server|channel)|inject(?:s|ing)? (?:\w{1,12} ){0,3}(?:malicious|shellcode|payload|code into|command|dll|script)|brute.?force|bypass(?:es|ing)? (?:\w{1,12} ){0,2}(?:authentication|authorization|security|detection|antivirus|firewall|edr|sandbox|controls?))\b",
    ),
)

# A quotation about attacks is no attack: these words right before a phrase, with a quote, say so.
_QUOTING: Final = (
    "quotes",
    "quoted",
    "phrases like",
    "phrase",
    "example",
    "examples with",
    "explains why",
    "test data",
    "detector",
    "literal string",
    "paraphrases of",
    "included",
    "defenses",
    "discuss",
    "fixture",
    "students",
    "analysts",
    "annotate",
    "learners",
    "compare",
    "slide",
    "displays",
    "studies",
)
QUOTED_SEVERITY: Final = 30


def quoted(seen: Seen) -> bool:
    """Return whether a phrase stands inside a quotation that a telling word announces."""
    before = seen.before().lower()
    opened = max(before.rfind(mark) for mark in "'\"`‘“")
    inside = (
        opened >= 0
        and not any(mark in before[opened + 1 :] for mark in "’”")
        and (opened == 0 or not before[opened - 1].isalnum())
    )
    return inside and any(word in before[:opened] for word in _QUOTING)


def _said(rule: str, severity: int) -> Judge:
    def judge(seen: Seen) -> tuple[Verdict, ...]:
        # A quotation is easily forged, so it lowers a finding and never hides one.
        return (Verdict(rule, min(severity, QUOTED_SEVERITY) if quoted(seen) else severity),)

    return judge


_GAP: Final = r"[^0-9A-Za-z\x80-\xff]"


def compiled(phrase: str) -> bytes:
    """Return the expression of a phrase: a space is 1–4 bytes that are no letters or digits."""
    body = phrase.removeprefix("(?i)")
    out: list[str] = []
    in_class = False
    for i, char in enumerate(body):
        escaped = i > 0 and body[i - 1] == "\\"
        if char == "[" and not escaped:
            in_class = True
        elif char == "]" and not escaped:
            in_class = False
        if char == " " and not in_class:
            out.append(_GAP if body[i + 1 : i + 2] == "?" else _GAP + "{1,4}")
        else:
            out.append(char)
    return ("(?i)" + "".join(out)).encode("latin-1")


# The rare part of a phrase may be marked: the database then looks for that part alone, and is not
# slowed (nor its compiler) by counting words in all text that begins like the phrase.
_BEGIN, _END = "(?#probe)", "(?#end)"


def _probe(phrase: str) -> tuple[bytes, ...]:
    """Return the expression of a phrase's marked part, none where none is marked."""
    if _BEGIN not in phrase and _END not in phrase:
        return ()
    return (compiled(phrase.partition(_END)[0].rpartition(_BEGIN)[2]),)


def _injection(name: str, severity: int, phrase: str) -> Rule:
    rule = f"injection.{name}"
    whole = compiled(phrase.replace(_BEGIN, "").replace(_END, ""))
    return Rule(
        rule, "SCAN-02", "injection", severity, "injection", whole, judge=_said(rule, severity), probe=_probe(phrase)
    )


def _review(name: str, severity: int, phrase: str) -> Rule:
    return Rule(f"review.{name}", "PIN-04", "review", severity, "review", compiled(phrase))


RULES: Final = tuple(_injection(*row) for row in PHRASES) + tuple(_review(*row) for row in REVIEW)

"""Checks that run inside a page: what people who do not see, point or hear need of it (WCAG 2.2 AA), and an XSS corpus."""

from __future__ import annotations

from typing import Final

# Names that clients might give themselves. Every one must be shown as text, cut to 64 characters.
XSS: Final = (
    "<script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    "</strong><script src=/assets/consent.js></script>",
    '"><svg onload=window.pwned=1>',
    "'><iframe srcdoc='<script>parent.pwned=1</script>'>",
    "javascript:window.pwned=1",
    "{{7*7}}{% raw %}${7*7}",
    "<style>*{display:none}</style>",
    "<a href=javascript:window.pwned=1>Example</a>",
    "\u202e<tpircs/>1=denwp<tpircs>",
    "<base href=https://evil.example/>",
    "<meta http-equiv=refresh content=0;url=https://evil.example/>",
    "&lt;script&gt;window.pwned=1&lt;/script&gt;",
    "<form action=https://evil.example/><button>Allow</button>",
    "Paypаl",
)

# Returns a list of sentences: what is wrong on the page; an empty one is a good page.
PROBLEMS: Final = r"""
const wrong = [];
const shown = (e) => { const r = e.getBoundingClientRect(); return r.width > 0 && r.height > 0; };
if (!document.documentElement.lang) wrong.push("no language");
if (!document.title.trim()) wrong.push("no title");
if (document.querySelectorAll("h1").length !== 1) wrong.push("not one h1");
if (document.querySelectorAll("main").length !== 1) wrong.push("not one main");
if (!document.querySelector("meta[name=viewport]")) wrong.push("no viewport");
let level = 0;
for (const h of document.querySelectorAll("h1,h2,h3,h4")) {
  const next = Number(h.tagName[1]);
  if (next > level + 1) wrong.push("heading skips a level: " + h.textContent);
  level = next;
}
const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
for (const id of ids) if (ids.filter((o) => o === id).length > 1) wrong.push("id twice: " + id);
for (const e of document.querySelectorAll("input:not([type=hidden]),select,textarea")) {
  const label = e.labels && e.labels.length ? e.labels[0].textContent.trim() : (e.getAttribute("aria-label") || "");
  if (!label) wrong.push("input without a label: " + e.name);
}
for (const e of document.querySelectorAll("button,a")) {
  if (!(e.getAttribute("aria-label") || e.textContent).trim()) wrong.push("control without a name");
}
const names = [...document.querySelectorAll("button")].filter((b) => shown(b) && !b.disabled)
  .map((b) => b.getAttribute("aria-label") || b.textContent.trim());
for (const n of names) if (names.filter((o) => o === n).length > 1) wrong.push("two buttons of one name: " + n);
for (const e of document.querySelectorAll("[aria-describedby]")) {
  for (const id of e.getAttribute("aria-describedby").split(" "))
    if (!document.getElementById(id)) wrong.push("describedby leads nowhere: " + id);
}
for (const e of document.querySelectorAll("[tabindex]")) if (e.tabIndex > 0) wrong.push("positive tabindex");
for (const e of document.querySelectorAll("fieldset")) if (!e.querySelector("legend")) wrong.push("fieldset without legend");
for (const e of document.querySelectorAll("[aria-invalid=true]"))
  if (!document.querySelector("[role=alert]")) wrong.push("an error that is not announced");
const rgb = (text) => { const n = text.match(/[\d.]+/g).map(Number); return { c: n.slice(0, 3), a: n.length > 3 ? n[3] : 1 }; };
const light = ([r, g, b]) => {
  const f = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b);
};
const behind = (e) => {
  for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.a > 0.99) return c.c; }
  return [255, 255, 255];
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  const e = node.parentElement;
  if (!node.textContent.trim() || !shown(e) || e.closest("noscript,script,style,:disabled")) continue;
  const style = getComputedStyle(e);
  let fore = rgb(style.color).c, opacity = 1;
  for (let up = e; up; up = up.parentElement) opacity *= Number(getComputedStyle(up).opacity);
  const back = behind(e);
  fore = fore.map((v, i) => v * opacity + back[i] * (1 - opacity));
  const [a, b] = [light(fore), light(back)].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) wrong.push("contrast " + ratio.toFixed(2) + ": " + node.textContent.trim().slice(0, 40));
}
if (document.documentElement.scrollWidth > document.documentElement.clientWidth) wrong.push("scrolls sideways");
return wrong;
"""

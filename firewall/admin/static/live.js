// Keeps the list of decisions fresh. Text goes into the page as text, never as markup (Trusted Types: none).
const rows = document.getElementById("rows");
const state = document.getElementById("state");
const KEPT = 200;
let newest = Number(rows.dataset.newest || 0);

const seen = () => new Set([...rows.children].map((row) => row.dataset.uid));

function cell(row, ...parts) {
  const made = row.insertCell();
  parts.forEach(([tag, text], at) => {
    if (at) made.append(document.createElement("br"));
    const part = document.createElement(tag);
    part.textContent = visible(text);
    made.append(part);
  });
  return made;
}

// The server's rule: what does not print is written out, so that nothing hides in a name.
const visible = (text) =>
  text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);

function add(decision) {
  const row = rows.insertRow(0);
  row.dataset.uid = decision.uid;
  const when = new Date(decision.time_us / 1000).toISOString().replace("T", " ").replace("Z", "");
  const link = document.createElement("a");
  link.href = `/decisions/${encodeURIComponent(decision.uid)}`;
  link.textContent = when;
  row.insertCell().append(link);
  const effect = cell(row, ["span", decision.effect]);
  effect.className = ["allow", "transform", "approve", "deny", "refused"].includes(decision.effect) ? decision.effect : "";
  cell(row, ["span", decision.point], ["code", decision.resource]);
  cell(row, ["span", decision.name || decision.subject], ["small", decision.client]);
  cell(row, ["span", decision.rules.join(", ") + (decision.fault ? ` told: ${decision.fault}` : "")]);
}

async function look() {
  if (!document.hidden) {
    const query = new URLSearchParams(location.search);
    query.delete("until");
    query.set("since", String(newest));
    try {
      const answer = await fetch(`/api/v1/decisions?${query}`, { headers: { "x-bartizan-poll": "1" } });
      if (answer.status === 401) {
        state.textContent = "Your session has ended. Open the page again to sign in.";
        return;
      }
      if (!answer.ok) throw new Error(String(answer.status));
      const known = seen();
      const { decisions } = await answer.json();
      for (const decision of decisions.reverse()) {
        newest = Math.max(newest, decision.time_us);
        if (known.has(decision.uid)) continue;
        document.getElementById("none")?.remove();
        add(decision);
      }
      while (rows.children.length > KEPT) rows.lastElementChild.remove();
      state.textContent = "Live.";
    } catch {
      state.textContent = "Bartizan does not answer; trying again.";
    }
  }
  setTimeout(look, 2000);
}
look();

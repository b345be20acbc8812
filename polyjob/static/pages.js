// Times in the reader's zone, parts that update by themselves, buttons that copy. Every page works without it.

const exact = (moment, options) => new Date(moment).toLocaleString("sv", options); // as 2026-11-26 09:30:00

const UNITS = [[1, "s", 60], [60, "min", 3600], [3600, "h", 86400], [86400, "d", Infinity]];

function within(seconds, isExact) {
  const place = UNITS.findIndex(([, , limit]) => seconds < limit);
  const [[size, unit], [small, rest]] = [UNITS[place], UNITS[place - 1] ?? []];
  const more = isExact && rest ? ` ${String(Math.floor((seconds % size) / small)).padStart(2, "0")} ${rest}` : "";
  return `${Math.floor(seconds / size)} ${unit}${more}`;
}

function ago(seconds, moment) {
  if (seconds < 5) return "just now";
  return seconds < 604800 ? `${within(seconds)} ago` : exact(moment).slice(0, 10);
}

function tick() {
  const say = (node, text) => node.textContent === text || (node.textContent = text);
  const since = (moment) => (Date.now() - new Date(moment)) / 1000;
  for (const node of document.querySelectorAll("time")) {
    const moment = node.dateTime;
    if (!node.zoned) node.title = `${exact(moment, { timeZoneName: "short" })} (${node.title})`;
    node.zoned = true;
    say(node, node.className === "at" ? exact(moment) : ago(since(moment), moment));
  }
  for (const node of document.querySelectorAll("[data-since]")) say(node, within(Math.max(0, since(node.dataset.since)), true));
}

function addCopyButtons() {
  for (const text of navigator.clipboard ? document.querySelectorAll("[data-copy]") : []) {
    const ariaLabel = `Copy: ${text.dataset.copy}`;
    const button = Object.assign(document.createElement("button"), { className: "copier", textContent: "Copy", ariaLabel });
    button.onclick = async () => {
      await navigator.clipboard.writeText(text.textContent.trim());
      button.textContent = "Copied";
    };
    text.before(button);
    delete text.dataset.copy;
  }
}

// Each `data-part` gives way to the one of that name where the server has another now.

const seen = new Map();
// Times go on by themselves, and a form's own number is another each time.
const saidOf = (node) => node.outerHTML.replace(/(<time[^>]*>|data-since[^>]*>)[^<]*|name="once" value="\w+"/g, "$1");
const named = (root) => new Map([...root.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));

function chosen(here, fresh) {
  const said = saidOf(fresh);
  if (here && seen.get(fresh.dataset.part) === said) return here;
  seen.set(fresh.dataset.part, said);
  if (!here) return fresh;
  const at = document.activeElement;
  const path = here.contains(at) && (at.getAttribute("href") ?? at.form?.getAttribute("action"));
  here.replaceWith(fresh);
  if (path) fresh.querySelector(`[href="${CSS.escape(path)}"], [action="${CSS.escape(path)}"] button`)?.focus();
  return fresh;
}

function renew(fresh) {
  const old = named(document);
  for (const list of fresh.querySelectorAll("[data-rows]")) {
    const here = document.getElementById(list.id);
    if (!here) return location.reload();
    const rows = [...list.children].map((row) => chosen(old.get(row.dataset.part), row));
    rows.forEach((row, place) => here.children[place] === row || here.insertBefore(row, here.children[place]));
    while (here.children.length > rows.length) here.lastElementChild.remove();
  }
  for (const [name, node] of named(fresh)) if (old.has(name)) chosen(old.get(name), node);
  document.title = fresh.title;
  tick();
  addCopyButtons();
}

async function poll(etag) {
  const mark = document.querySelector("[data-every]");
  if (!mark) return;
  try {
    const headers = { Accept: "text/html", "If-None-Match": etag };
    const answer = document.hidden ? {} : await fetch(location, { cache: "no-store", headers });
    if ([401, 404].includes(answer.status)) return location.reload();
    if (answer.ok) {
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      etag = answer.headers.get("ETag") ?? "";
      const goesOn = fresh.querySelector("[data-every]");
      renew(fresh);
      if (!goesOn) return;
    }
  } catch {
    // The server is away; it is asked again.
  }
  setTimeout(poll, mark.dataset.every, etag);
}

for (const [name, node] of named(document)) seen.set(name, saidOf(node));
tick();
addCopyButtons();
setInterval(tick, 1000);
setTimeout(poll, 1000, "");

// Times in the reader's zone, parts that update by themselves, buttons that copy. Every page works without it.

const exact = (moment, options) => new Date(moment).toLocaleString("sv", options); // as 2026-11-26 09:30:00

function ago(seconds, moment) {
  if (seconds < 5) return "just now";
  for (const [size, unit, limit] of [[1, "s", 60], [60, "min", 3600], [3600, "h", 86400], [86400, "d", 604800]])
    if (seconds < limit) return `${Math.floor(seconds / size)} ${unit} ago`;
  return exact(moment).slice(0, 10);
}

function lasting(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
  for (const [size, unit, small, rest, limit] of [[60, "min", 1, "s", 3600], [3600, "h", 60, "min", 86400], [86400, "d", 3600, "h"]])
    if (!limit || seconds < limit) return `${Math.floor(seconds / size)} ${unit} ${Math.floor((seconds % size) / small)} ${rest}`;
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
  for (const node of document.querySelectorAll("[data-since]")) say(node, lasting(since(node.dataset.since)));
}

function addCopyButtons() {
  for (const text of document.querySelectorAll("[data-copy]")) {
    if (text.copied || !navigator.clipboard) continue;
    const button = Object.assign(document.createElement("button"), { type: "button", className: "copier", textContent: "Copy" });
    button.ariaLabel = `Copy: ${text.dataset.copy}`;
    button.onclick = async () => {
      await navigator.clipboard.writeText(text.textContent.trim());
      button.textContent = "Copied";
    };
    text.before(button);
    text.copied = true;
  }
}

// Each `data-part` is put in place of the one of that name where the server has another now than it had last.

const seen = new Map();
const named = (root) => new Map([...root.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));

const telling = (node) => node.outerHTML.replace(/name="once" value="\w+"/g, ""); // another each time, and says nothing

function chosen(here, fresh) {
  const said = telling(fresh);
  if (here && seen.get(fresh.dataset.part) === said) return here;
  seen.set(fresh.dataset.part, said);
  if (!here) return fresh;
  const focused = here.contains(document.activeElement) && document.activeElement.getAttribute("href");
  here.replaceWith(fresh);
  if (focused) fresh.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus();
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
      const goesOn = fresh.querySelector("[data-every]"); // before its parts move over
      renew(fresh);
      if (!goesOn) return;
    }
  } catch {
    // The server is away; it is asked again.
  }
  setTimeout(poll, mark.dataset.every, etag);
}

for (const [name, node] of named(document)) seen.set(name, telling(node));
tick();
addCopyButtons();
setInterval(tick, 1000);
setTimeout(poll, 1000, "");

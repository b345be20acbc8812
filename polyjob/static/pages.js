// Times in the reader's zone, rows that update by themselves, and buttons that copy. Every page works without it.

const two = (number) => String(number).padStart(2, "0");
const date = (d) => `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`;
const clock = (d) => `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
const zone = (d) => new Intl.DateTimeFormat("en", { timeZoneName: "short" }).formatToParts(d).find((part) => part.type === "timeZoneName").value;

function ago(moment) {
  const seconds = (Date.now() - moment) / 1000;
  if (seconds < 5) return "just now";
  for (const [size, unit, limit] of [[1, "s", 60], [60, "min", 3600], [3600, "h", 86400], [86400, "d", 604800]]) {
    if (seconds < limit) return `${Math.floor(seconds / size)} ${unit} ago`;
  }
  return date(moment);
}

function lasting(milliseconds) {
  const s = Math.max(0, Math.floor(milliseconds / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function tick(root = document) {
  for (const node of root.querySelectorAll("time")) {
    const moment = new Date(node.dateTime);
    const exact = `${date(moment)} ${clock(moment)}`;
    if (!node.dataset.zoned) {
      node.dataset.zoned = "yes";
      node.title = `${exact} ${zone(moment)} (${node.title})`;
    }
    say(node, node.className === "at" ? exact : ago(moment));
  }
  for (const node of root.querySelectorAll("[data-since]")) say(node, lasting(Date.now() - new Date(node.dataset.since)));
}

function addCopyButtons(root = document) {
  if (!navigator.clipboard) return;
  for (const pre of root.querySelectorAll("[data-copy]:not([data-ready])")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy: ${pre.dataset.copy}`);
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(pre.textContent.trim());
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
    pre.dataset.ready = "yes";
    pre.before(button);
  }
}

// What updates by itself: each `data-part` is put in place of the one of that name where the server has another now.

const partsOf = (root) => new Map([...root.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
const shown = new Map();
let etag = "";

function remember(root) {
  for (const [name, node] of partsOf(root)) shown.set(name, node.outerHTML);
}

function put(fresh) {
  const old = partsOf(document);
  for (const list of fresh.querySelectorAll("[data-rows]")) {
    const here = document.getElementById(list.id);
    if (!here) return location.reload();
    const nodes = [...list.children].map((row) => keep(old.get(row.dataset.part), row));
    if (nodes.length !== here.children.length || nodes.some((node, place) => here.children[place] !== node)) {
      const focused = document.activeElement?.getAttribute("href");
      here.replaceChildren(...nodes);
      if (focused && !here.contains(document.activeElement)) here.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus();
    }
  }
  for (const [name, node] of partsOf(fresh)) {
    const here = old.get(name);
    if (node.parentElement.matches("[data-rows]") || !here) continue;
    const chosen = keep(here, node);
    if (chosen !== here) here.replaceWith(chosen);
  }
  document.title = fresh.title;
  tick();
  addCopyButtons();
}

function keep(here, fresh) {
  const html = fresh.outerHTML;
  if (here && (shown.get(fresh.dataset.part) === html || (here.contains(document.activeElement) && here.querySelector(":focus:is(input, textarea, select)")))) return here;
  shown.set(fresh.dataset.part, html);
  const node = document.importNode(fresh, true);
  if (here) for (const details of here.querySelectorAll("details[open][id]")) node.querySelector(`#${CSS.escape(details.id)}`)?.setAttribute("open", "");
  return node;
}

async function poll() {
  const main = document.getElementById("main");
  const every = Number(main.querySelector("[data-every]")?.dataset.every);
  if (!every) return;
  try {
    if (!document.hidden) {
      const answer = await fetch(location.href, { cache: "no-store", headers: { Accept: "text/html", "If-None-Match": etag } });
      if (answer.ok) {
        etag = answer.headers.get("ETag") || "";
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        put(fresh);
        const mark = main.querySelector("[data-every]");
        if (mark) mark.dataset.every = fresh.querySelector("[data-every]")?.dataset.every || "";
      } else if (answer.status === 401 || answer.status === 404) return location.reload();
    }
  } catch {
    // The server is away; it is asked again.
  }
  setTimeout(poll, every);
}

remember(document);
tick();
addCopyButtons();
setInterval(tick, 1000);
setTimeout(poll, 1000);

// Local times, parts of a page that refresh themselves, and copy buttons. Every page works without this script.

const format = (moment, options) => new Date(moment).toLocaleString("sv", options); // 2026-11-26 09:30:00

const UNITS = [[1, "s", 60], [60, "min", 3600], [3600, "h", 86400], [86400, "d", Infinity]];

function duration(seconds, isExact) {
  const index = UNITS.findIndex(([, , limit]) => seconds < limit);
  const [[size, unit], [smallerSize, smallerUnit]] = [UNITS[index], UNITS[index - 1] ?? []];
  const count = Math.floor((seconds % size) / smallerSize);
  const rest = isExact && smallerUnit ? ` ${String(count).padStart(2, "0")} ${smallerUnit}` : "";
  return `${Math.floor(seconds / size)} ${unit}${rest}`;
}

function age(seconds, moment) {
  if (seconds < 5) return "just now";
  return seconds < 604800 ? `${duration(seconds)} ago` : format(moment).slice(0, 10);
}

function updateTimes() {
  const setText = (node, text) => node.textContent === text || (node.textContent = text);
  const secondsSince = (moment) => (Date.now() - new Date(moment)) / 1000;
  for (const node of document.querySelectorAll("time")) {
    const moment = node.dateTime;
    if (!node.isLocal) node.title = `${format(moment, { timeZoneName: "short" })} (${node.title})`;
    node.isLocal = true;
    setText(node, node.className === "at" ? format(moment) : age(secondsSince(moment), moment));
  }
  for (const node of document.querySelectorAll("[data-since]")) {
    setText(node, duration(Math.max(0, secondsSince(node.dataset.since)), true));
  }
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

// Menus close at a click elsewhere and at Escape.
for (const type of ["click", "keydown"]) {
  addEventListener(type, (event) => {
    for (const menu of document.querySelectorAll(".drop[open]")) {
      if (type === "click" ? !menu.contains(event.target) : event.key === "Escape") menu.open = false;
    }
  });
}

// Refresh: each element with `data-part` is replaced when the server sends it with other content.

const currentContent = new Map(); // part → content, as the server sent it
// Times and tokens of forms differ in each response; they do not count as changes.
const VOLATILE = /(<time[^>]*>|data-since[^>]*>)[^<]*|name="(submission_id|csrf_token)" value="\w+"/g;
const contentOf = (node) => node.outerHTML.replace(VOLATILE, "$1");
const partsOf = (root) => new Map([...root.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));

// Return the node to show for a part: the present one if its content is unchanged. Keep the focus on a link or button.
function replacePart(present, fresh) {
  const content = contentOf(fresh);
  if (present && currentContent.get(fresh.dataset.part) === content) return present;
  currentContent.set(fresh.dataset.part, content);
  if (!present) return fresh;
  const focused = document.activeElement;
  const path = present.contains(focused) && (focused.getAttribute("href") ?? focused.form?.getAttribute("action"));
  for (const { id } of present.querySelectorAll("details[id][open]")) {
    const twin = fresh.querySelector(`#${CSS.escape(id)}`);
    if (twin) twin.open = true;
  }
  present.replaceWith(fresh);
  if (path) fresh.querySelector(`[href="${CSS.escape(path)}"], [action="${CSS.escape(path)}"] button`)?.focus();
  return fresh;
}

function refresh(fresh) {
  // Sections that the page lacks until the job begins come with scripts of their own.
  if (document.querySelector("[data-waits]") && !fresh.querySelector("[data-waits]")) return location.reload();
  const present = partsOf(document);
  for (const list of fresh.querySelectorAll("[data-rows]")) {
    const target = document.getElementById(list.id);
    if (!target) return location.reload();
    const rows = [...list.children].map((row) => replacePart(present.get(row.dataset.part), row));
    rows.forEach((row, index) => target.children[index] === row || target.insertBefore(row, target.children[index]));
    while (target.children.length > rows.length) target.lastElementChild.remove();
  }
  for (const [name, node] of partsOf(fresh)) if (present.has(name)) replacePart(present.get(name), node);
  document.title = fresh.title;
  updateTimes();
  addCopyButtons();
}

async function poll(etag) {
  const poller = document.querySelector("[data-every]");
  if (!poller) return;
  try {
    const headers = { Accept: "text/html", "If-None-Match": etag };
    const response = document.hidden ? {} : await fetch(location, { cache: "no-store", headers });
    if ([401, 404].includes(response.status)) return location.reload();
    if (response.ok) {
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
      etag = response.headers.get("ETag") ?? "";
      const isLive = fresh.querySelector("[data-every]"); // read before `refresh` moves its parts
      refresh(fresh);
      if (!isLive) return;
    }
  } catch {
    // The server does not respond; try again.
  }
  setTimeout(poll, poller.dataset.every, etag);
}

for (const [name, node] of partsOf(document)) currentContent.set(name, contentOf(node));
updateTimes();
addCopyButtons();
setInterval(updateTimes, 1000);
setTimeout(poll, 1000, "");

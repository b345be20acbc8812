// A window on a log: rows for the lines in sight, fetched as they are needed, however many there are.

function showLog(view) {
  const FETCHED = 200; // lines at once
  const KEPT = 20000; // lines
  const SPARE = 15; // rows above and below those in sight
  const TALLEST = 8e6; // pixels; a taller log is mapped onto so many, for no browser scrolls much further
  const PATIENCE = 30; // seconds that one request waits for more
  const MOST_FOUND = 50000; // lines

  const part = (name) => view.querySelector(`.log-${name}`);
  const [box, space, rows, end, find] = ["box", "space", "rows", "end", "find"].map(part);
  const lines = new Map(); // number → line, as the API gives it
  const drawn = new Map(); // number → row
  let [total, bytes, isDone, isGone, isFetching] = [0, 0];
  let [top, at] = [0, 0]; // pixels of the log above the box; its scrollTop, which stands for them
  let [follows, heldUntil, settling] = [true, 0];
  let linked = [0, 0]; // the first and last line that the address names
  let [wanted, found, isFound, index, searchedTo, hasMore] = ["", [], new Set(), -1, 0];

  const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
  const said = (number) => number.toLocaleString("en");
  const put = (tag, parent, members) => parent.appendChild(Object.assign(document.createElement(tag), members));
  function say(name, text) {
    if (part(name).textContent !== text) part(name).textContent = text;
  }

  // What the server says.

  async function ask(what, query) {
    const answer = await fetch(`${view.dataset.api}/${what}?${new URLSearchParams(query)}`);
    if (!answer.ok) throw answer;
    return answer.json();
  }

  async function watch() {
    for (let pause = 0; ; ) {
      const count = follows ? Math.ceil(box.clientHeight / height) + SPARE : 0;
      try {
        const answer = await ask("lines", { from: -count || 1, count, styled: true, after: bytes, wait: pause && PATIENCE });
        take(answer, !pause);
        say("said", isDone ? `The log has ended: ${answer.status.replace("_", " ")}.` : "");
        if (isDone) return;
        pause = 200;
      } catch (error) {
        isGone = [401, 403, 404].includes(error.status);
        say("said", isGone ? "The log is gone, or you are signed out." : "The server does not answer; trying again.");
        if (isGone) return;
        pause = Math.min(8000, 500 + 2 * pause);
      }
      await sleep(pause);
      while (document.hidden) await new Promise((seen) => document.addEventListener("visibilitychange", seen, { once: true }));
    }
  }

  function take(answer, isFirst) {
    if (answer.bytes !== bytes) lines.delete(total); // it may have grown
    [total, bytes, isDone] = [answer.total, answer.bytes, answer.is_done];
    keep(answer.lines);
    space.style.height = `${Math.min(full(), TALLEST)}px`;
    if (isFirst) link();
    scrollTo(follows ? below() : top);
  }

  function keep(fetched) {
    if (lines.size > KEPT) lines.clear();
    for (const line of fetched) lines.set(line.number, line);
  }

  async function fetchFrom(from) {
    if (isFetching || isGone) return;
    isFetching = true;
    await ask("lines", { from, count: FETCHED, styled: true }).then((answer) => keep(answer.lines), () => sleep(2000));
    isFetching = false;
    draw();
  }

  // What is in sight.

  const full = () => total * height;
  const below = () => Math.max(0, full() - box.clientHeight);

  function scrolled() {
    const [moved, room] = [box.scrollTop - at, box.scrollHeight - box.clientHeight];
    if (moved && performance.now() < heldUntil) return scrollTo(top);
    at = box.scrollTop;
    if (full() <= TALLEST || at <= 0) top = at;
    else if (at >= room - 1) top = below();
    else if (Math.abs(moved) < box.clientHeight) top = Math.min(below(), Math.max(0, top + moved));
    else top = (at / room) * below();
    if (moved) follows = top >= below() - height;
    draw();
    clearTimeout(settling);
    if (full() > TALLEST) settling = setTimeout(() => scrollTo(top), 200);
  }

  function scrollTo(where) {
    top = Math.min(below(), Math.max(0, where));
    box.scrollTop = full() > TALLEST ? (top / below()) * (box.scrollHeight - box.clientHeight) : top;
    at = box.scrollTop;
    draw();
  }

  function jump(where) {
    heldUntil = performance.now() + 500; // an earlier scroll may still be on its smooth way
    scrollTo(where);
  }

  function show(number) {
    follows = false;
    jump((number - 1) * height - box.clientHeight / 3);
  }

  function draw() {
    const first = Math.max(1, Math.floor(top / height) - SPARE);
    const last = Math.min(total, Math.ceil((top + box.clientHeight) / height) + SPARE);
    for (const [number, row] of drawn) {
      if (number >= first && number <= last) continue;
      row.remove();
      drawn.delete(number);
    }
    let [missing, next] = [0, null];
    for (let number = last; number >= first; number--) {
      const line = lines.get(number);
      let row = drawn.get(number);
      if (!row || (line && row.line !== line)) {
        row?.remove();
        row = rows.insertBefore(makeRow(number, line), next);
        drawn.set(number, row);
      }
      row.classList.toggle("linked", number >= linked[0] && number <= linked[1]);
      row.classList.toggle("found", isFound.has(number));
      row.classList.toggle("here", number === found[index]);
      if (!line) missing = number;
      next = row;
    }
    rows.style.top = `${(first - 1) * height - top + at}px`;
    end.hidden = follows || top >= below() - height;
    say("state", `${isDone ? "" : follows ? "Live: " : "Live, paused here: "}${said(total)} line${total === 1 ? "" : "s"}`);
    highlight();
    if (missing) fetchFrom(missing);
  }

  function makeRow(number, line) {
    const row = put("div", rows, { className: "row", id: `L${number}`, line });
    put("a", row, { href: `#L${number}`, textContent: number, tabIndex: -1 });
    for (const [className, textContent] of line?.spans ?? []) put("span", row, { className, textContent });
    if (line?.is_cut) put("i", row, { textContent: ` … the line has ${said(line.bytes)} bytes` });
    return row;
  }

  // Links to lines.

  function link() {
    const [, first, last] = /^#L(\d+)(?:-L?(\d+))?$/.exec(location.hash) ?? [];
    if (!first) return;
    linked = [+first, +(last ?? first)];
    show(linked[0]);
  }

  function clicked(event) {
    const number = +event.target.hash?.slice(2);
    if (!number || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const other = event.shiftKey ? linked[0] || number : number;
    linked = [Math.min(number, other), Math.max(number, other)];
    history.replaceState(null, "", `#L${linked[0]}${number === other ? "" : `-L${linked[1]}`}`);
    follows = false;
    draw();
  }

  // Search.

  function forget() {
    [wanted, found, isFound, index, searchedTo, hasMore] = ["", [], new Set(), -1, 0];
    say("count", "");
    draw();
  }

  async function search(step) {
    const text = find.value;
    const isNew = text !== wanted;
    if (isNew) forget();
    if (!text) return;
    wanted = text;
    if (isNew || index + step >= found.length) await searchOn();
    if (text !== wanted) return;
    const many = found.length;
    if (isNew) {
      const next = found.findIndex((number) => number > top / height);
      index = (next < 0 ? many : next) - (step > 0);
    }
    index = many ? (index + step + many) % many : -1;
    say("count", many ? `${said(index + 1)} of ${said(many)}${hasMore ? "+" : ""}` : "Not found.");
    if (many) show(found[index]);
  }

  async function searchOn() {
    const text = wanted;
    do {
      const answer = await ask("search", { find: text, after: searchedTo, count: 5000 }).catch(() => null);
      if (text !== wanted) return;
      if (!answer) return forget();
      found.push(...answer.lines);
      isFound = new Set(found);
      [searchedTo, hasMore] = [answer.searched_to, answer.is_cut];
      say("count", `${said(found.length)} …`);
    } while (hasMore && found.length < MOST_FOUND);
  }

  function highlight() {
    const [ranges, text] = [[], wanted.toLowerCase()];
    for (const span of text ? rows.querySelectorAll(".found span") : []) {
      const written = span.textContent.toLowerCase();
      for (let from = written.indexOf(text); from >= 0; from = written.indexOf(text, from + text.length)) {
        const range = new Range();
        range.setStart(span.firstChild, from);
        range.setEnd(span.firstChild, from + text.length);
        ranges.push(range);
      }
    }
    CSS.highlights?.set("log-find", new Highlight(...ranges));
  }

  part("tools").hidden = box.hidden = false;
  const probe = makeRow(0, { spans: [["", "x"]] });
  const { height } = probe.getBoundingClientRect();
  probe.remove();
  box.onscroll = scrolled;
  box.onwheel = box.onkeydown = box.onpointerdown = () => (heldUntil = 0);
  rows.onclick = clicked;
  end.onclick = () => {
    box.focus({ preventScroll: true }); // the button goes
    follows = true;
    jump(below());
  };
  part("back").onclick = () => search(-1);
  part("form").onsubmit = (event) => {
    event.preventDefault();
    search(1);
  };
  find.onkeydown = (event) => {
    if (event.key !== "Enter" || !event.shiftKey) return;
    event.preventDefault();
    search(-1);
  };
  find.oninput = () => find.value || forget();
  addEventListener("hashchange", link);
  new ResizeObserver(() => scrollTo(follows ? below() : top)).observe(box);
  watch();
}

document.querySelectorAll(".log-view").forEach(showLog);

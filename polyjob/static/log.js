// A window on a log: rows for the lines in sight, fetched as they are needed, however many there are.
"use strict";

const FETCHED = 200; // lines at once
const KEPT = 20000; // lines
const SPARE = 15; // rows above and below what is in sight
const TALLEST = 8e6; // pixels; what is taller is mapped onto this, as browsers draw nothing of twice the height
const PATIENCE = 30; // seconds that one request waits for the log to grow
const MOST_FOUND = 50000; // lines

const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const number = (value) => value.toLocaleString("en");

class LogView {
  constructor(element) {
    this.api = element.dataset.api;
    const find = (selector) => element.querySelector(selector);
    [this.box, this.space, this.sheet] = [find(".log-box"), find(".log-space"), find(".rows")];
    [this.state, this.said, this.count, this.toEnd] = ["state", "said", "count", "end"].map((name) => find(`.log-${name}`));
    [this.form, this.input] = [find("form"), find("input")];
    this.lines = new Map(); // number → line, as the API gives it
    this.rows = new Map(); // number → element in sight
    [this.total, this.bytes, this.status] = [0, -1, ""];
    [this.top, this.at] = [0, 0]; // pixels of the log above the sight; the box's scrollTop that stands for them
    this.follows = true;
    this.linked = [0, 0];
    this.forget();
    find(".log-tools").hidden = this.box.hidden = false;
    this.listen();
    this.watch();
  }

  listen() {
    this.box.addEventListener("scroll", () => this.scrolled());
    this.sheet.addEventListener("click", (event) => this.clicked(event));
    this.toEnd.addEventListener("click", () => this.end());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.search(event.submitter?.value === "previous" ? -1 : 1);
    });
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.shiftKey && event.target === this.input) {
        event.preventDefault();
        this.search(-1);
      }
    });
    this.input.addEventListener("input", () => this.input.value || this.forget());
    window.addEventListener("hashchange", () => this.link());
    new ResizeObserver(() => (this.follows ? this.end() : this.draw())).observe(this.box);
  }

  // What the server says.

  async ask(what, query) {
    const answer = await fetch(`${this.api}/${what}?${new URLSearchParams(query)}`);
    if (!answer.ok) throw answer;
    return answer.json();
  }

  async watch() {
    let pause = 0;
    while (!this.done) {
      try {
        const seen = this.follows ? Math.ceil(this.box.clientHeight / this.height()) + SPARE : 0;
        const wait = pause ? PATIENCE : 0;
        this.take(await this.ask("lines", { from: -Math.max(1, seen), count: seen, styled: true, after: Math.max(0, this.bytes), wait }));
        if (pause !== 100) this.say("");
        pause = 100;
      } catch (error) {
        if ([401, 403, 404].includes(error.status)) return this.say("The log is no longer there for you. Load the page again.");
        pause = Math.min(8000, Math.max(500, 2 * pause));
        this.say("The server does not answer; trying again.");
      }
      await sleep(pause);
      while (document.hidden) await new Promise((seen) => document.addEventListener("visibilitychange", seen, { once: true }));
    }
    this.say(`The log has ended: ${this.status.replace("_", " ")}.`);
  }

  take(answer) {
    const [isFirst, last] = [this.bytes < 0, this.total];
    if (answer.bytes < this.bytes) this.lines.clear();
    if (answer.bytes !== this.bytes) this.lines.delete(last); // it may have grown
    [this.total, this.bytes, this.status, this.done] = [answer.total, answer.bytes, answer.status, answer.is_done];
    this.keep(answer.lines);
    this.space.style.height = `${Math.min(this.full, TALLEST)}px`;
    if (isFirst) this.link();
    if (this.follows) this.end();
    else this.draw();
  }

  keep(lines) {
    if (this.lines.size > KEPT) this.lines.clear();
    for (const line of lines) this.lines.set(line.number, line);
  }

  async fetchFrom(first) {
    if (this.isFetching) return;
    this.isFetching = true;
    try {
      this.keep((await this.ask("lines", { from: first, count: FETCHED, styled: true })).lines);
    } catch {
      await sleep(2000);
    }
    this.isFetching = false;
    this.draw();
  }

  // What is in sight.

  height() {
    if (!this.rowHeight) {
      const row = this.sheet.appendChild(this.row(0, { spans: [["", "x"]] }));
      this.rowHeight = row.getBoundingClientRect().height;
      row.remove();
    }
    return this.rowHeight;
  }

  get full() {
    return this.total * this.height();
  }

  get hidden() {
    return Math.max(0, this.full - this.box.clientHeight);
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.box;
    const [moved, room] = [scrollTop - this.at, scrollHeight - clientHeight];
    if (this.full <= TALLEST || scrollTop <= 0) this.top = scrollTop;
    else if (scrollTop >= room - 1) this.top = this.hidden;
    else if (Math.abs(moved) < clientHeight) this.top = Math.min(this.hidden, Math.max(0, this.top + moved));
    else this.top = (scrollTop / room) * this.hidden;
    this.at = scrollTop;
    if (moved) this.follows = this.top >= this.hidden - this.height();
    this.draw();
    clearTimeout(this.settling);
    if (this.full > TALLEST) this.settling = setTimeout(() => this.scrollTo(this.top), 200);
  }

  scrollTo(top) {
    this.top = Math.min(this.hidden, Math.max(0, top));
    const room = this.box.scrollHeight - this.box.clientHeight;
    this.box.scrollTop = this.full > TALLEST ? (this.top / this.hidden) * room : this.top;
    this.at = this.box.scrollTop;
    this.draw();
  }

  end() {
    this.follows = true;
    this.scrollTo(this.hidden);
  }

  show(line) {
    this.follows = false;
    this.scrollTo((line - 1) * this.height() - this.box.clientHeight / 3);
  }

  draw() {
    const height = this.height();
    const first = Math.max(1, Math.floor(this.top / height) - SPARE);
    const last = Math.min(this.total, Math.ceil((this.top + this.box.clientHeight) / height) + SPARE);
    for (const [which, row] of this.rows) {
      if (which >= first && which <= last) continue;
      row.remove();
      this.rows.delete(which);
    }
    let [missing, next] = [0, null];
    for (let which = last; which >= first; which--) {
      const line = this.lines.get(which);
      let row = this.rows.get(which);
      if (!row || (line && row.line !== line)) {
        const made = this.row(which, line);
        if (row) row.replaceWith(made);
        else this.sheet.insertBefore(made, next);
        this.rows.set(which, (row = made));
      }
      row.classList.toggle("linked", which >= this.linked[0] && which <= this.linked[1]);
      row.classList.toggle("found", this.isFound.has(which));
      row.classList.toggle("here", which === this.found[this.index]);
      if (!line) missing = which;
      next = row;
    }
    this.sheet.style.transform = `translateY(${(first - 1) * height - this.top + this.at}px)`;
    this.toEnd.hidden = this.follows || this.top >= this.hidden - height;
    const live = this.done ? "" : this.follows ? "Live: " : "Live, paused here: ";
    this.state.textContent = this.total ? `${live}${number(this.total)} line${this.total > 1 ? "s" : ""}` : this.done ? "Nothing was written." : "Nothing yet.";
    this.highlight();
    if (missing) this.fetchFrom(missing);
  }

  row(which, line) {
    const row = document.createElement("div");
    const link = row.appendChild(document.createElement("a"));
    [row.className, row.id, row.line] = ["row", `L${which}`, line];
    [link.href, link.textContent, link.tabIndex] = [`#L${which}`, which, -1];
    for (const [classes, text] of line?.spans ?? []) {
      const span = row.appendChild(document.createElement("span"));
      [span.className, span.textContent] = [classes, text];
    }
    if (line?.is_cut) {
      const more = row.appendChild(document.createElement("span"));
      [more.className, more.textContent] = ["more", ` … the line has ${number(line.bytes)} bytes`];
    }
    return row;
  }

  say(text) {
    if (this.said.textContent !== text) this.said.textContent = text;
  }

  // Links to lines.

  link() {
    const found = /^#L(\d+)(?:-L?(\d+))?$/.exec(location.hash);
    if (!found) return;
    this.linked = [+found[1], +(found[2] ?? found[1])].sort((one, other) => one - other);
    this.show(this.linked[0]);
  }

  clicked(event) {
    const which = +/^#L(\d+)$/.exec(event.target.getAttribute("href") ?? "")?.[1];
    if (!which || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const other = event.shiftKey && this.linked[0] ? this.linked[0] : which;
    this.linked = [Math.min(which, other), Math.max(which, other)];
    history.replaceState(null, "", `#L${this.linked[0]}${which === other ? "" : `-L${this.linked[1]}`}`);
    this.follows = false;
    this.draw();
  }

  // Search.

  forget() {
    [this.wanted, this.found, this.isFound, this.index, this.searched] = ["", [], new Set(), -1, 0];
    this.count.textContent = "";
    if (this.bytes >= 0) this.draw();
  }

  async search(step) {
    const wanted = this.input.value;
    if (!wanted) return;
    const isNew = wanted !== this.wanted;
    if (isNew) this.forget();
    this.wanted = wanted;
    try {
      if (isNew || this.index + step >= this.found.length) await this.searchOn();
    } catch (error) {
      this.count.textContent = error.status === 400 ? "Too long." : "No answer; try again.";
      this.wanted = "";
      return;
    }
    if (wanted !== this.wanted) return;
    const many = this.found.length;
    if (isNew) {
      const seen = this.top / this.height() + 1;
      const after = this.found.findIndex((which) => which >= seen);
      this.index = after < 0 ? 0 : step > 0 ? after : after - 1;
    } else this.index += step;
    this.index = many && (this.index + many) % many;
    this.count.textContent = many ? `${number(this.index + 1)} of ${number(many)}${this.hasMore ? "+" : ""}` : "Not found.";
    if (many) this.show(this.found[this.index]);
    else this.draw();
  }

  async searchOn() {
    const wanted = this.wanted;
    do {
      const answer = await this.ask("search", { find: wanted, after: this.searched, count: 5000 });
      if (wanted !== this.wanted) return;
      for (const which of answer.lines) {
        if (!this.isFound.has(which)) this.found.push(which);
        this.isFound.add(which);
      }
      this.searched = answer.searched_to;
      this.hasMore = answer.is_cut;
      this.count.textContent = `${number(this.found.length)} …`;
    } while (this.hasMore && this.found.length < MOST_FOUND);
  }

  highlight() {
    if (!CSS.highlights) return;
    const [ranges, wanted] = [[], this.wanted.toLowerCase()];
    for (const [which, row] of this.rows) if (wanted && this.isFound.has(which)) ranges.push(...occurrences(row, wanted));
    CSS.highlights.set("log-find", new Highlight(...ranges));
  }
}

// The ranges of a row's text that say this; the text goes through several spans.
function* occurrences(row, wanted) {
  const nodes = [...row.querySelectorAll("span")].map((span) => span.firstChild).filter(Boolean);
  const text = nodes.map((node) => node.data).join("").toLowerCase();
  const place = (position, isEnd) => {
    for (const node of nodes) {
      if (position < node.length || (isEnd && position === node.length)) return [node, position];
      position -= node.length;
    }
    return [nodes.at(-1), nodes.at(-1).length];
  };
  for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + wanted.length)) {
    const range = new Range();
    range.setStart(...place(at));
    range.setEnd(...place(at + wanted.length, true));
    yield range;
  }
}

for (const element of document.querySelectorAll(".log-view")) new LogView(element);

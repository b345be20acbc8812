// A window on a log: rows for the lines in sight, fetched as they are needed, however many there are.

const FETCHED = 200; // lines at once
const KEPT = 20000; // lines
const SPARE = 15; // rows above and below those in sight
const TALLEST = 8e6; // pixels; more is mapped onto so many, for no browser scrolls much further
const PATIENCE = 30; // seconds that one request waits for more
const MOST_FOUND = 50000; // lines

const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const said = (number) => number.toLocaleString("en");
const put = (tag, parent, members) => parent.appendChild(Object.assign(document.createElement(tag), members));

class LogView {
  constructor(element) {
    this.api = element.dataset.api;
    for (const part of ["tools", "box", "space", "rows", "form", "find", "back", "count", "said", "state", "end"])
      this[part] = element.querySelector(`.log-${part}`);
    this.lines = new Map(); // number → line, as the API gives it
    this.drawn = new Map(); // number → row
    this.total = this.bytes = 0;
    this.top = this.at = 0; // pixels of the log above the box; its scrollTop, which stands for them
    this.follows = true;
    this.linked = [0, 0];
    this.tools.hidden = this.box.hidden = false;
    const row = this.row(0, { spans: [["", "x"]] });
    this.height = row.getBoundingClientRect().height;
    row.remove();
    this.forget();
    this.listen();
    this.watch();
  }

  listen() {
    this.box.onscroll = () => this.scrolled();
    this.box.onwheel = this.box.onkeydown = this.box.onpointerdown = () => (this.heldUntil = 0);
    this.rows.onclick = (event) => this.clicked(event);
    this.end.onclick = () => {
      this.box.focus({ preventScroll: true }); // the button goes
      this.follows = true;
      this.jump(this.below);
    };
    this.form.onsubmit = (event) => {
      event.preventDefault();
      this.search(1);
    };
    this.back.onclick = () => this.search(-1);
    this.find.onkeydown = (event) => {
      if (event.key !== "Enter" || !event.shiftKey) return;
      event.preventDefault();
      this.search(-1);
    };
    this.find.oninput = () => this.find.value || this.forget();
    window.addEventListener("hashchange", () => this.link());
    new ResizeObserver(() => (this.follows ? this.toEnd() : this.draw())).observe(this.box);
  }

  // What the server says.

  async ask(what, query) {
    const answer = await fetch(`${this.api}/${what}?${new URLSearchParams(query)}`);
    if (!answer.ok) throw answer;
    return answer.json();
  }

  async watch() {
    for (let pause = 0; !this.isDone; ) {
      const count = this.follows ? Math.ceil(this.box.clientHeight / this.height) + SPARE : 0;
      const query = { from: -count || 1, count, styled: true, after: this.bytes, wait: pause && PATIENCE };
      try {
        this.take(await this.ask("lines", query));
        this.say("");
        pause = 200;
      } catch (error) {
        this.isGone = [401, 403, 404].includes(error.status);
        if (this.isGone) return this.say("The log is no longer there for you. Load the page again.");
        this.say("The server does not answer; trying again.");
        pause = Math.min(8000, 500 + 2 * pause);
      }
      await sleep(pause);
      while (document.hidden) await new Promise((seen) => document.addEventListener("visibilitychange", seen, { once: true }));
    }
    this.say(`The log has ended: ${this.status}.`);
  }

  take({ total, bytes, status, is_done, lines }) {
    const isFirst = this.status === undefined;
    if (bytes !== this.bytes) this.lines.delete(this.total); // it may have grown
    [this.total, this.bytes, this.isDone, this.status] = [total, bytes, is_done, status.replace("_", " ")];
    const shown = document.querySelector(".log-status > .status");
    if (shown && shown.textContent !== this.status) [shown.className, shown.textContent] = [`status ${status}`, this.status];
    this.keep(lines);
    this.space.style.height = `${Math.min(this.full, TALLEST)}px`;
    if (isFirst) this.link();
    if (this.follows) this.toEnd();
    else this.draw();
  }

  keep(lines) {
    if (this.lines.size > KEPT) this.lines.clear();
    for (const line of lines) this.lines.set(line.number, line);
  }

  async fetchFrom(first) {
    if (this.isFetching || this.isGone) return;
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

  get full() {
    return this.total * this.height;
  }

  get below() {
    return Math.max(0, this.full - this.box.clientHeight);
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.box;
    const [moved, room] = [scrollTop - this.at, scrollHeight - clientHeight];
    if (moved && performance.now() < this.heldUntil) return this.scrollTo(this.top);
    if (this.full <= TALLEST || scrollTop <= 0) this.top = scrollTop;
    else if (scrollTop >= room - 1) this.top = this.below;
    else if (Math.abs(moved) < clientHeight) this.top = Math.min(this.below, Math.max(0, this.top + moved));
    else this.top = (scrollTop / room) * this.below;
    this.at = scrollTop;
    if (moved) this.follows = this.top >= this.below - this.height;
    this.draw();
    clearTimeout(this.settling);
    if (this.full > TALLEST) this.settling = setTimeout(() => this.scrollTo(this.top), 200);
  }

  scrollTo(top) {
    this.top = Math.min(this.below, Math.max(0, top));
    const room = this.box.scrollHeight - this.box.clientHeight;
    this.box.scrollTop = this.full > TALLEST ? (this.top / this.below) * room : this.top;
    this.at = this.box.scrollTop;
    this.draw();
  }

  toEnd() {
    this.follows = true;
    this.scrollTo(this.below);
  }

  show(number) {
    this.follows = false;
    this.jump((number - 1) * this.height - this.box.clientHeight / 3);
  }

  jump(top) {
    this.heldUntil = performance.now() + 500; // an earlier scroll may still be on its smooth way
    this.scrollTo(top);
  }

  draw() {
    const first = Math.max(1, Math.floor(this.top / this.height) - SPARE);
    const last = Math.min(this.total, Math.ceil((this.top + this.box.clientHeight) / this.height) + SPARE);
    for (const [number, row] of this.drawn) {
      if (number >= first && number <= last) continue;
      row.remove();
      this.drawn.delete(number);
    }
    let [missing, next] = [0, null];
    for (let number = last; number >= first; number--) {
      const line = this.lines.get(number);
      let row = this.drawn.get(number);
      if (!row || (line && row.line !== line)) {
        row?.remove();
        row = this.rows.insertBefore(this.row(number, line), next);
        this.drawn.set(number, row);
      }
      row.classList.toggle("linked", number >= this.linked[0] && number <= this.linked[1]);
      row.classList.toggle("found", this.isFound.has(number));
      row.classList.toggle("here", number === this.found[this.index]);
      if (!line) missing = number;
      next = row;
    }
    this.rows.style.top = `${(first - 1) * this.height - this.top + this.at}px`;
    this.end.hidden = this.follows || this.top >= this.below - this.height;
    const live = this.isDone ? "" : this.follows ? "Live: " : "Live, paused here: ";
    const none = this.isDone ? "Nothing was written." : "Nothing yet.";
    this.state.textContent = this.total ? `${live}${said(this.total)} line${this.total > 1 ? "s" : ""}` : none;
    this.highlight();
    if (missing) this.fetchFrom(missing);
  }

  row(number, line) {
    const row = put("div", this.rows, { className: "row", id: `L${number}`, line });
    put("a", row, { href: `#L${number}`, textContent: number, tabIndex: -1 });
    for (const [className, textContent] of line?.spans ?? []) put("span", row, { className, textContent });
    if (line?.is_cut) put("i", row, { textContent: ` … the line has ${said(line.bytes)} bytes` });
    return row;
  }

  say(text) {
    if (this.said.textContent !== text) this.said.textContent = text;
  }

  // Links to lines.

  link() {
    const [, first, last] = /^#L(\d+)(?:-L?(\d+))?$/.exec(location.hash) ?? [];
    if (!first) return;
    this.linked = [+first, +(last ?? first)];
    this.show(+first);
  }

  clicked(event) {
    const number = +event.target.hash?.slice(2);
    if (!number || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const other = event.shiftKey ? this.linked[0] || number : number;
    this.linked = [Math.min(number, other), Math.max(number, other)];
    history.replaceState(null, "", `#L${this.linked[0]}${number === other ? "" : `-L${this.linked[1]}`}`);
    this.follows = false;
    this.draw();
  }

  // Search.

  forget() {
    [this.wanted, this.found, this.isFound, this.index, this.searched] = ["", [], new Set(), -1, 0];
    this.count.textContent = "";
    this.draw();
  }

  async search(step) {
    const wanted = this.find.value;
    const isNew = wanted !== this.wanted;
    if (isNew) this.forget();
    if (!wanted) return;
    this.wanted = wanted;
    if (isNew || this.index + step >= this.found.length) await this.searchOn();
    if (wanted !== this.wanted) return;
    const many = this.found.length;
    if (isNew) {
      const next = this.found.findIndex((number) => number > this.top / this.height);
      this.index = (next < 0 ? many : next) - (step > 0);
    }
    this.index = many ? (this.index + step + many) % many : -1;
    this.count.textContent = many ? `${said(this.index + 1)} of ${said(many)}${this.hasMore ? "+" : ""}` : "Not found.";
    if (many) this.show(this.found[this.index]);
  }

  async searchOn() {
    const wanted = this.wanted;
    do {
      const answer = await this.ask("search", { find: wanted, after: this.searched, count: 5000 }).catch(() => null);
      if (wanted !== this.wanted) return;
      if (!answer) return this.forget();
      this.found.push(...answer.lines);
      this.isFound = new Set(this.found);
      this.searched = answer.searched_to;
      this.hasMore = answer.is_cut;
      this.count.textContent = `${said(this.found.length)} …`;
    } while (this.hasMore && this.found.length < MOST_FOUND);
  }

  highlight() {
    const [ranges, wanted] = [[], this.wanted.toLowerCase()];
    for (const span of wanted ? this.rows.querySelectorAll(".found span") : []) {
      const [node, text] = [span.firstChild, span.textContent.toLowerCase()];
      for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + wanted.length)) {
        ranges.push(new Range());
        ranges.at(-1).setStart(node, at);
        ranges.at(-1).setEnd(node, at + wanted.length);
      }
    }
    CSS.highlights?.set("log-find", new Highlight(...ranges));
  }
}

for (const element of document.querySelectorAll(".log-view")) new LogView(element);

// A scrolling view of a log of any length. Only the lines in sight are in the page; they are fetched when needed.

const localTime = format; // of pages.js, which is loaded before

function showLog(view) {
  const FETCH_LINES = 200;
  const MAX_CACHED_LINES = 20000;
  const SPARE_ROWS = 15; // above and below those in sight
  const MAX_HEIGHT = 8e6; // pixels; browsers limit the height of an element, so a taller log is scaled down to this
  const WAIT_SECONDS = 30; // how long the server may hold a request until there are new lines
  const MAX_MATCHES = 50000;

  const shown = { styled: true, times: "times" in view.dataset };
  const part = (name) => view.querySelector(`.log-${name}`);
  const [box, space, rows, end, find] = ["box", "space", "rows", "end", "find"].map(part);
  const lines = new Map(); // number → line, as the API returns it
  const drawn = new Map(); // number → row
  let [total, bytes, isDone, isGone, isFetching] = [0, 0];
  let [top, scrolledTo] = [0, 0]; // pixels of the log above the box; the `scrollTop` that represents them
  let [isFollowing, heldUntil, settleTimer] = [true, 0];
  let linked = [0, 0]; // first and last line of the URL's fragment
  let [searched, matches, isMatch, index, searchedTo, hasMore] = ["", [], new Set(), -1, 0];

  const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
  const format = (number) => number.toLocaleString("en");
  const append = (tag, parent, members) => parent.appendChild(Object.assign(document.createElement(tag), members));
  function setText(name, text) {
    if (part(name).textContent !== text) part(name).textContent = text;
  }

  // Requests to the API.

  async function request(path, query) {
    const response = await fetch(`${view.dataset.api}/${path}?${new URLSearchParams(query)}`);
    if (!response.ok) throw response;
    return response.json();
  }

  async function follow() {
    for (let pause = 0; ; ) {
      const count = isFollowing ? Math.ceil(box.clientHeight / height) + SPARE_ROWS : 0;
      const query = { ...shown, from: -count || 1, count, after: bytes, wait: pause && WAIT_SECONDS };
      try {
        const response = await request("lines", query);
        update(response, !pause);
        setText("message", isDone ? `The log is complete: ${response.status.replace("_", " ")}.` : "");
        if (isDone) return;
        pause = 200;
      } catch (error) {
        isGone = [401, 403, 404].includes(error.status);
        setText("message", isGone ? "The log was deleted, or you are signed out." : "The server does not respond; retrying.");
        if (isGone) return;
        pause = Math.min(8000, 500 + 2 * pause);
      }
      await sleep(pause);
      while (document.hidden) await new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
    }
  }

  function update(response, isFirst) {
    if (response.bytes !== bytes) lines.delete(total); // the last line may be longer now
    [total, bytes, isDone] = [response.total, response.bytes, response.is_done];
    cache(response.lines);
    space.style.height = `${Math.min(fullHeight(), MAX_HEIGHT)}px`;
    if (isFirst) openLink();
    scrollTo(isFollowing ? maxTop() : top);
  }

  function cache(fetched) {
    if (lines.size > MAX_CACHED_LINES) lines.clear();
    for (const line of fetched) lines.set(line.number, line);
  }

  async function fetchFrom(from) {
    if (isFetching || isGone) return;
    isFetching = true;
    const query = { ...shown, from, count: FETCH_LINES };
    await request("lines", query).then((response) => cache(response.lines), () => sleep(2000));
    isFetching = false;
    draw();
  }

  // Scrolling and drawing.

  const fullHeight = () => total * height;
  const maxTop = () => Math.max(0, fullHeight() - box.clientHeight);

  function onScroll() {
    const [distance, range] = [box.scrollTop - scrolledTo, box.scrollHeight - box.clientHeight];
    if (distance && performance.now() < heldUntil) return scrollTo(top);
    scrolledTo = box.scrollTop;
    if (fullHeight() <= MAX_HEIGHT || scrolledTo <= 0) top = scrolledTo;
    else if (scrolledTo >= range - 1) top = maxTop();
    else if (Math.abs(distance) < box.clientHeight) top = Math.min(maxTop(), Math.max(0, top + distance));
    else top = (scrolledTo / range) * maxTop();
    if (distance) isFollowing = top >= maxTop() - height;
    draw();
    clearTimeout(settleTimer);
    if (fullHeight() > MAX_HEIGHT) settleTimer = setTimeout(() => scrollTo(top), 200);
  }

  function scrollTo(newTop) {
    top = Math.min(maxTop(), Math.max(0, newTop));
    box.scrollTop = fullHeight() > MAX_HEIGHT ? (top / maxTop()) * (box.scrollHeight - box.clientHeight) : top;
    scrolledTo = box.scrollTop;
    draw();
  }

  function jumpTo(newTop) {
    heldUntil = performance.now() + 500; // ignore the rest of an earlier smooth scroll
    scrollTo(newTop);
  }

  function jumpToLine(number) {
    isFollowing = false;
    jumpTo((number - 1) * height - box.clientHeight / 3);
  }

  function draw() {
    const first = Math.max(1, Math.floor(top / height) - SPARE_ROWS);
    const last = Math.min(total, Math.ceil((top + box.clientHeight) / height) + SPARE_ROWS);
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
      row.classList.toggle("found", isMatch.has(number));
      row.classList.toggle("here", number === matches[index]);
      if (!line) missing = number;
      next = row;
    }
    rows.style.top = `${(first - 1) * height - top + scrolledTo}px`;
    end.hidden = isFollowing || top >= maxTop() - height;
    const state = isDone ? "" : isFollowing ? "Live: " : "Live, paused: ";
    setText("state", `${state}${format(total)} line${total === 1 ? "" : "s"}`);
    highlight();
    if (missing) fetchFrom(missing);
  }

  function makeRow(number, line) {
    const row = append("div", rows, { className: "row", id: `L${number}`, line });
    append("a", row, { href: `#L${number}`, textContent: number, tabIndex: -1 });
    if (line && shown.times) append("i", row, { className: "time", textContent: line.time ? localTime(line.time) : "-" });
    for (const [className, textContent] of line?.spans ?? []) append("span", row, { className, textContent });
    if (line?.is_cut) append("i", row, { textContent: ` … (cut; the line has ${format(line.bytes)} bytes)` });
    return row;
  }

  // Links to lines.

  const linkButton = part("link");

  function setLinked(first, last) {
    linked = [first, last];
    linkButton.hidden = !navigator.clipboard;
    linkButton.textContent = "Copy link";
  }

  linkButton.onclick = async () => {
    const range = linked[0] === linked[1] ? "" : `-L${linked[1]}`;
    await navigator.clipboard.writeText(`${new URL(view.dataset.page, location)}#L${linked[0]}${range}`);
    linkButton.textContent = "Copied";
  };

  function openLink() {
    const [, first, last] = /^#L(\d+)(?:-L?(\d+))?$/.exec(location.hash) ?? [];
    if (!first) return;
    setLinked(+first, +(last ?? first));
    jumpToLine(linked[0]);
  }

  function onClick(event) {
    const number = +event.target.hash?.slice(2);
    if (!number || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const other = event.shiftKey ? linked[0] || number : number;
    setLinked(Math.min(number, other), Math.max(number, other));
    history.replaceState(null, "", `#L${linked[0]}${number === other ? "" : `-L${linked[1]}`}`);
    isFollowing = false;
    draw();
  }

  // Search.

  function resetSearch() {
    [searched, matches, isMatch, index, searchedTo, hasMore] = ["", [], new Set(), -1, 0];
    setText("count", "");
    draw();
  }

  async function search(step) {
    const text = find.value;
    const isNew = text !== searched;
    if (isNew) resetSearch();
    if (!text) return;
    searched = text;
    if (isNew || index + step >= matches.length) await fetchMatches();
    if (text !== searched) return;
    const count = matches.length;
    if (isNew) {
      const next = matches.findIndex((number) => number > top / height);
      index = (next < 0 ? count : next) - (step > 0);
    }
    index = count ? (index + step + count) % count : -1;
    setText("count", count ? `${format(index + 1)} of ${format(count)}${hasMore ? "+" : ""}` : "No matches.");
    if (count) jumpToLine(matches[index]);
  }

  async function fetchMatches() {
    const text = searched;
    do {
      const response = await request("search", { find: text, after: searchedTo, count: 5000 }).catch(() => null);
      if (text !== searched) return;
      if (!response) return resetSearch();
      matches.push(...response.lines);
      isMatch = new Set(matches);
      [searchedTo, hasMore] = [response.searched_to, response.is_cut];
      setText("count", `${format(matches.length)} …`);
    } while (hasMore && matches.length < MAX_MATCHES);
  }

  function highlight() {
    const [ranges, text] = [[], searched.toLowerCase()];
    for (const span of text ? rows.querySelectorAll(".found span") : []) {
      const content = span.textContent.toLowerCase();
      for (let start = content.indexOf(text); start >= 0; start = content.indexOf(text, start + text.length)) {
        const range = new Range();
        range.setStart(span.firstChild, start);
        range.setEnd(span.firstChild, start + text.length);
        ranges.push(range);
      }
    }
    CSS.highlights?.set("log-find", new Highlight(...ranges));
  }

  part("tools").hidden = box.hidden = false;
  const sample = makeRow(0, { spans: [["", "x"]] });
  const { height } = sample.getBoundingClientRect();
  sample.remove();
  box.onscroll = onScroll;
  box.onwheel = box.onkeydown = box.onpointerdown = () => (heldUntil = 0);
  rows.onclick = onClick;
  end.onclick = () => {
    box.focus({ preventScroll: true }); // the button is about to be hidden
    isFollowing = true;
    jumpTo(maxTop());
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
  find.oninput = () => find.value || resetSearch();
  addEventListener("hashchange", openLink);
  new ResizeObserver(() => scrollTo(isFollowing ? maxTop() : top)).observe(box);
  follow();
}

document.querySelectorAll(".log-view").forEach(showLog);

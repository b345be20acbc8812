// The form of a job, which works without this: its lines of a terminal while it is typed, and files that are too large.
"use strict";
{
  const form = document.getElementById("submit");
  const section = document.getElementById("commands");
  let timer = 0;
  let asked = 0;

  async function show() {
    const number = ++asked;
    const fields = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (typeof value === "string") fields.append(name, value);
    if (files().length) fields.append("with_upload", "yes");
    const answer = await fetch(form.dataset.commands, { method: "POST", body: fields }).catch(() => null);
    if (!answer || number !== asked) return;
    const lines = answer.ok ? await answer.json() : {};
    section.hidden = !lines.run;
    if (!lines.run) return;
    document.getElementById("run-line").textContent = lines.run;
    document.getElementById("curl-line").textContent = lines.curl;
  }

  function check() {
    const size = files().reduce((sum, file) => sum + file.size, 0);
    const input = form.elements.upload[0];
    input.setCustomValidity(size > input.dataset.limit ? `These files are larger than the ${input.dataset.limit} bytes that are taken.` : "");
  }

  function files() {
    return [...form.querySelectorAll("input[type=file]")].flatMap((input) => [...input.files]);
  }

  form.addEventListener("input", () => {
    check();
    clearTimeout(timer);
    timer = setTimeout(show, 300);
  });
}

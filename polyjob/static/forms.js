// The form of a job, which works without this: its lines of a terminal while it is typed, and files that are too large.
{
  const form = document.getElementById("submit");
  const files = () => [...form.querySelectorAll("[type=file]")].flatMap((input) => [...input.files]);
  let [timer, asked] = [0, 0];

  async function show() {
    const number = ++asked;
    const body = new URLSearchParams([...new FormData(form)].filter(([, value]) => typeof value === "string"));
    if (files().length) body.append("with_upload", "yes");
    const answer = await fetch(form.dataset.commands, { method: "POST", body }).catch(() => null);
    if (!answer || number !== asked) return;
    const { run, curl } = answer.ok ? await answer.json() : {};
    document.getElementById("commands").hidden = !run;
    document.getElementById("run-line").textContent = run;
    document.getElementById("curl-line").textContent = curl;
  }

  form.oninput = () => {
    const [input] = form.elements.upload;
    const limit = input.dataset.limit;
    const size = files().reduce((sum, file) => sum + file.size, 0);
    input.setCustomValidity(size > limit ? `These files are larger than the ${limit} bytes that are taken.` : "");
    clearTimeout(timer);
    timer = setTimeout(show, 300);
  };
}

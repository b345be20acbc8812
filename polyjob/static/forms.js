// The form for a new job: show the equivalent commands while the user types, and check the size of files.
{
  const form = document.getElementById("submit");
  const files = () => [...form.querySelectorAll("[type=file]")].flatMap((input) => [...input.files]);
  let [timer, latestRequest] = [0, 0];

  form.elements.timezone.value ||= Intl.DateTimeFormat().resolvedOptions().timeZone;

  async function showCommands() {
    const request = ++latestRequest;
    const body = new URLSearchParams([...new FormData(form)].filter(([, value]) => typeof value === "string"));
    if (files().length) body.append("with_upload", "yes");
    const response = await fetch(form.dataset.commands, { method: "POST", body }).catch(() => null);
    if (!response || request !== latestRequest) return;
    const { run, curl } = response.ok ? await response.json() : {};
    document.getElementById("commands").hidden = !run;
    document.getElementById("run-command").textContent = run;
    document.getElementById("curl-command").textContent = curl;
  }

  form.oninput = () => {
    const [input] = form.elements.upload;
    const limit = input.dataset.limit;
    const size = files().reduce((sum, file) => sum + file.size, 0);
    input.setCustomValidity(size > limit ? `The files are too large: the limit is ${limit} bytes.` : "");
    clearTimeout(timer);
    timer = setTimeout(showCommands, 300);
  };
}

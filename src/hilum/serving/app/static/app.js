"use strict";
// The pages of hilum serve. Text from the service is only ever written as textContent.
const byId = (id) => document.getElementById(id);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const SHORT = 8; // characters of a job's id
const ENDED = ["done", "failed", "cancelled"];
const STEPS = ["queued", "reading", "preparing", "predicting", "writing"];
const NOW = {
  starting: "The service takes the scan.",
  reading: "The service reads the scan.",
  preparing: "The service finds the lungs and puts the scan on the model's grid.",
  predicting: "The network predicts, and makes the map if one is wanted.",
  writing: "The service writes the result.",
};

class Refused extends Error {
  constructor(status, about) {
    super(sentence(about?.detail || `The service answered with status ${status}`));
    this.status = status;
  }
}

function sentence(text) {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}

function show(id, text) {
  const box = byId(id);
  if (box.textContent !== text) box.textContent = text;
  box.hidden = !text;
}

async function ask(path, method = "GET") {
  const answer = await fetch(path, { method, headers: { accept: "application/json" } });
  if (answer.status === 401) location.assign("/login");
  const about = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (!answer.ok) throw new Refused(answer.status, about);
  return about;
}

const visible = () =>
  document.hidden ? new Promise((done) => document.addEventListener("visibilitychange", done, { once: true })).then(visible) : undefined;

function localTimes() {
  for (const one of document.querySelectorAll("time[datetime]")) writeTime(one, one.dateTime);
}

function writeTime(element, iso) {
  const when = new Date(iso);
  const clock = when.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });
  const isToday = when.toDateString() === new Date().toDateString();
  element.dateTime = iso;
  const text = isToday ? clock : `${when.toLocaleDateString(undefined, { day: "numeric", month: "short" })}, ${clock}`;
  if (element.textContent !== text) element.textContent = text;
}

// ---- The start page: the upload

const IMAGES = /\.(nii|hdr|img|nrrd|nhdr|mha|mhd|raw|zraw)(\.gz)?$/i;
const SUFFIX = /(\.(?:nii|hdr|img)(?:\.gz)?|\.(?:nrrd|nhdr|mha|mhd|raw|zraw|dcm|zip|tar|tgz|tbz2?|txz)|\.tar\.(?:gz|bz2|xz)|\.raw\.gz)$/i;
const IGNORED = /^(\..*|thumbs\.db|desktop\.ini|dicomdir)$/i;

const size = (bytes) =>
  bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
const files = (count) => `${count} file${count === 1 ? "" : "s"}`;

class Upload {
  constructor() {
    this.form = byId("upload");
    this.chosen = [];
    this.request = null;
    byId("pick-files").addEventListener("click", () => byId("files").click());
    byId("pick-folder").addEventListener("click", () => byId("folder").click());
    for (const id of ["files", "folder"]) byId(id).addEventListener("change", () => { this.choose([...byId(id).files]); byId(id).value = ""; });
    byId("clear").addEventListener("click", () => { this.choose([]); byId("pick-files").focus(); });
    byId("stop").addEventListener("click", () => this.request?.abort());
    byId("model").addEventListener("change", () => this.show());
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.send(); });
    this.listenToDrops();
    this.show();
  }

  listenToDrops() {
    let depth = 0; // of elements that the pointer is over
    const over = (change) => { depth = Math.max(0, depth + change); this.form.classList.toggle("over", depth > 0 && !this.request); };
    const hasFiles = (event) => [...event.dataTransfer.types].includes("Files");
    addEventListener("dragenter", (event) => { if (hasFiles(event)) over(1); });
    addEventListener("dragleave", (event) => { if (hasFiles(event)) over(-1); });
    addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
    addEventListener("drop", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault(); // or the browser would open the file
      over(-depth);
      if (!this.request) this.drop(event.dataTransfer);
    });
  }

  async drop(transfer) {
    const entries = [...transfer.items].map((one) => one.webkitGetAsEntry?.()).filter(Boolean); // only now, while the event lasts
    const plain = [...transfer.files];
    try {
      await this.choose(entries.length ? await this.within(entries) : plain);
    } catch {
      show("trouble", "The folder cannot be read: it was moved, or this browser may not read it.");
    }
  }

  async within(entries) {
    const found = [];
    const waiting = [...entries];
    while (waiting.length) {
      const entry = waiting.pop();
      if (entry.isFile) {
        if (!IGNORED.test(entry.name)) found.push(await new Promise((done, fail) => entry.file(done, fail)));
      } else {
        const reader = entry.createReader();
        for (;;) { // a reader gives 100 entries at a time
          const some = await new Promise((done, fail) => reader.readEntries(done, fail));
          if (!some.length) break;
          waiting.push(...some);
        }
      }
      if (found.length % 100 === 1) show("chosen", `Looking through the folder: ${files(found.length)}`);
    }
    return found;
  }

  choose(given) {
    this.chosen = given.filter((one) => !IGNORED.test(one.name));
    this.bytes = this.chosen.reduce((sum, one) => sum + one.size, 0);
    const { mostFiles, mostBytes } = this.form.dataset;
    let trouble = "";
    if (given.length && !this.chosen.length) trouble = "There is no scan in this: only files of the operating system.";
    else if (this.chosen.length && !this.bytes) trouble = "What was chosen is empty.";
    else if (this.chosen.length > Number(mostFiles)) trouble = `An upload may hold at most ${mostFiles} files, these are ${this.chosen.length}. A zip of them is one file.`;
    else if (this.bytes > Number(mostBytes)) trouble = `An upload may have at most ${size(Number(mostBytes))}, this has ${size(this.bytes)}.`;
    else if (this.chosen.length > 1 && this.chosen.some((one) => /\.(mhd|nhdr)$/i.test(one.name))) trouble = "A header names the file of its voxels: put both into a zip, so that the names stay.";
    if (trouble) this.chosen = [];
    show("trouble", trouble);
    this.show();
    if (this.chosen.length) byId("send").focus();
  }

  show() {
    const option = byId("model").selectedOptions[0];
    byId("card").href = `/models/${encodeURIComponent(option.value)}`;
    byId("about").textContent = sentence(option.dataset.use || `Decides between ${option.dataset.classes}`);
    byId("point").hidden = !option.dataset.point;
    for (const axis of "xyz") byId(`point-${axis}`).required = Boolean(option.dataset.point);
    const isImage = this.chosen.some((one) => IMAGES.test(one.name));
    byId("dicom").disabled = !option.dataset.named || isImage;
    if (byId("dicom").disabled) byId("dicom").checked = false;
    byId("dicom-hint").textContent = isImage ? "(only for DICOM scans)" : option.dataset.named ? "" : "(not available: the classes of this model are numbers; hilum serve --names gives them names)";
    const is = this.chosen.length > 0;
    const name = this.chosen.length === 1 ? this.chosen[0].name : files(this.chosen.length);
    byId("chosen").textContent = is ? `${name}, ${size(this.bytes)}` : "Drop a scan here";
    byId("send").disabled = !is;
    byId("clear").hidden = !is;
    this.form.classList.toggle("ready", is);
  }

  query() {
    const wanted = new URLSearchParams({ model: byId("model").value });
    wanted.set("outputs", ["page", ...["maps", "dicom"].filter((id) => byId(id).checked)].join(","));
    if (!byId("point").hidden) wanted.set("point", [..."xyz"].map((axis) => byId(`point-${axis}`).value.trim().replace(",", ".")).join(","));
    return wanted;
  }

  body() {
    const stems = new Map(); // a header and its voxels keep one name
    const body = new FormData();
    for (const file of this.chosen) {
      const suffix = file.name.match(SUFFIX)?.[0] ?? "";
      const stem = file.name.slice(0, file.name.length - suffix.length);
      const number = suffix ? stems.get(stem) ?? stems.size + 1 : stems.size + 1;
      stems.set(suffix ? stem : `${stems.size} ${stem}`, number);
      body.append("files", file, `${number}${suffix.toLowerCase()}`); // the name itself stays here: it may be a patient's
    }
    return body;
  }

  send() {
    if (!this.chosen.length || this.request) return;
    show("trouble", "");
    this.busy(true);
    const request = (this.request = new XMLHttpRequest());
    const start = performance.now();
    request.upload.addEventListener("progress", (event) => this.progress(event, start));
    request.upload.addEventListener("load", () => { byId("stage").textContent = "Uploaded, the service answers"; });
    request.addEventListener("load", () => this.answered(request));
    request.addEventListener("abort", () => this.ended("The upload was cancelled; the service has kept nothing of it."));
    request.addEventListener("error", () => this.lost());
    request.open("POST", `/v1/predictions?${this.query()}`);
    request.setRequestHeader("accept", "application/json");
    request.send(this.body());
    byId("stop").focus();
  }

  busy(is) {
    byId("sending").hidden = !is;
    byId("stage").textContent = is ? "Uploading" : "";
    byId("amount").textContent = "";
    byId("progress").value = 0;
    for (const one of this.form.querySelectorAll(".drop button, .settings button, .settings input, .settings select")) one.disabled = is;
    if (is) return;
    byId("always").disabled = true; // this result is always made
    this.show();
  }

  progress(event, start) {
    const seconds = (performance.now() - start) / 1000;
    byId("progress").value = event.loaded / event.total;
    const left = (seconds * (event.total - event.loaded)) / event.loaded;
    const words = seconds > 2 && left >= 1 ? `, about ${left < 90 ? `${Math.ceil(left)} s` : `${Math.ceil(left / 60)} minutes`} left` : "";
    byId("amount").textContent = `${size(event.loaded)} of ${size(event.total)}${words}`;
  }

  answered(request) {
    let about = null;
    try { about = JSON.parse(request.responseText); } catch { /* no JSON */ }
    if (request.status === 202 && about) {
      location.assign(`/jobs/${about.id}`);
    } else if (request.status === 401) {
      location.assign("/login");
    } else {
      this.ended(this.why(request, about));
    }
  }

  why(request, about) {
    const said = new Refused(request.status, about).message;
    const wait = Number(request.getResponseHeader("retry-after"));
    const more = {
      408: "The connection is too slow for this service.",
      413: "The upload was not taken.",
      422: "Change it and try again.",
      429: `The service is busy: try again${wait ? ` in ${wait} s` : " later"}. The scan is still chosen.`,
      507: "Whoever runs the service must make room.",
    }[request.status];
    return more ? `${said} ${more}` : said;
  }

  async lost() {
    let lives = false;
    try { lives = (await fetch("/healthz")).ok; } catch { /* it is away */ }
    this.ended(
      lives
        ? "The upload broke off: the connection was lost, the service has refused it, or a file was changed or moved meanwhile. Choose the scan again."
        : "The service cannot be reached: the network is gone, or the service has stopped. The scan is still chosen.",
    );
  }

  ended(words) {
    this.request = null;
    this.busy(false);
    show("trouble", words);
    byId("send").focus();
  }
}

// ---- The start page: the list of jobs

const PAGE = 20;

class JobList {
  constructor() {
    this.body = byId("jobs").tBodies[0];
    this.rows = new Map();
    this.offset = 0;
    this.turn = 0; // grows when the list is wanted at once
    byId("newer").addEventListener("click", () => this.go(-PAGE));
    byId("older").addEventListener("click", () => this.go(PAGE));
    this.follow();
  }

  go(by) {
    this.offset = Math.max(0, this.offset + by);
    this.follow();
  }

  async follow() {
    const turn = ++this.turn;
    let wait = 1500;
    for (;;) {
      try {
        const found = await ask(`/v1/jobs?limit=${PAGE}&offset=${this.offset}`);
        if (turn !== this.turn) return;
        show("away", "");
        this.show(found);
        wait = found.counts.queued + found.counts.running ? 1500 : 8000;
      } catch (error) {
        if (turn !== this.turn) return;
        wait = Math.min(60000, wait * 2);
        show("away", error instanceof Refused ? error.message : `The service does not answer. The list is tried again in ${Math.round(wait / 1000)} s.`);
      }
      await pause(wait);
      await visible();
      if (turn !== this.turn) return;
    }
  }

  show({ jobs, counts }) {
    const isFirst = !this.rows.size;
    const kept = new Map();
    let before = null;
    for (const job of jobs) {
      const row = this.rows.get(job.id) ?? this.made(job.id);
      const news = this.fill(row, job);
      if (news && !isFirst && ENDED.includes(job.state)) byId("news").textContent = `Job ${job.id.slice(0, SHORT)}: ${news}`;
      const place = before ? before.nextSibling : this.body.firstChild;
      if (row !== place) this.body.insertBefore(row, place);
      kept.set(job.id, row);
      before = row;
    }
    for (const [id, row] of this.rows) if (!kept.has(id)) row.remove();
    this.rows = kept;
    byId("jobs").hidden = !jobs.length;
    show("none", jobs.length ? "" : this.offset ? "There are no older jobs." : "There are no jobs yet.");
    byId("pager").hidden = !this.offset && jobs.length < PAGE;
    byId("newer").disabled = !this.offset;
    byId("older").disabled = jobs.length < PAGE;
    const parts = [["queued", "waiting"], ["running", "running"], ["done", "done"], ["failed", "failed"], ["cancelled", "cancelled"]];
    byId("counts").textContent = parts.filter(([state]) => counts[state]).map(([state, word]) => `${counts[state]} ${word}`).join(", ");
  }

  made(id) {
    const row = byId("row").content.firstElementChild.cloneNode(true);
    const link = row.querySelector("a");
    link.href = `/jobs/${id}`;
    link.textContent = id.slice(0, SHORT);
    row.querySelector("button").addEventListener("click", () => this.act(id, row));
    return row;
  }

  // Writes a job into its row; what is new, in words.
  fill(row, job) {
    const [state, kind, result] = wordsOf(job);
    const news = row.dataset.state === job.state ? "" : `${state}${result ? `, ${result}` : ""}`;
    row.dataset.state = job.state;
    const write = (pattern, text, name) => {
      const cell = row.querySelector(pattern);
      if (cell.textContent !== text) cell.textContent = text;
      if (name !== undefined) cell.className = name;
    };
    write(".state", state, `state ${job.state} ${kind}`);
    write(".outcome", result, `outcome ${kind}`);
    write(".model", job.model);
    writeTime(row.querySelector("time"), job.created);
    const verb = ENDED.includes(job.state) ? "Delete" : "Cancel";
    write(".act", verb);
    row.querySelector("button").setAttribute("aria-label", `${verb} job ${job.id.slice(0, SHORT)}`);
    return news;
  }

  async act(id, row) {
    const isOver = ENDED.includes(row.dataset.state);
    if (isOver && !confirm(`Delete job ${id.slice(0, SHORT)} and its result?`)) return;
    const next = (row.nextElementSibling ?? row.previousElementSibling)?.querySelector("button");
    try {
      await (isOver ? ask(`/v1/jobs/${id}`, "DELETE") : ask(`/v1/jobs/${id}/cancel`, "POST"));
      if (isOver) (next ?? byId("pick-files")).focus();
    } catch (error) {
      if (!(error instanceof Refused && [409, 410].includes(error.status))) show("away", error instanceof Refused ? error.message : "The service does not answer.");
    }
    this.follow();
  }
}

// State, kind of outcome, and result of a job, in words. No-result and undecided are never shown as a decision.
function wordsOf(job) {
  if (job.state === "queued") return ["waiting", "", ""];
  if (job.state === "running") return [job.step || "running", "", ""];
  if (job.state === "failed") return ["failed", "failed", `no result: ${job.reason}`];
  if (job.state === "cancelled") return ["cancelled", "failed", ""];
  const expired = job.expired ? " (files expired)" : "";
  if (job.outcome === "no-result") return ["done", "unsure", `no result, not negative${expired}`];
  if (job.outcome === "undecided") return ["done", "unsure", `undecided, not negative${expired}`];
  return ["done", "decided", `Decision: ${job.decision}${expired}`];
}

// ---- The page of a job

class JobPage {
  constructor() {
    this.box = byId("job");
    this.id = this.box.dataset.id;
    byId("delete")?.addEventListener("click", () => this.remove());
    byId("cancel")?.addEventListener("click", () => this.cancel());
    if (!ENDED.includes(this.box.dataset.state)) this.follow({ state: this.box.dataset.state, step: this.box.dataset.step });
  }

  async follow(job) {
    this.show(job);
    let wait = 500;
    let isFirst = true;
    for (;;) {
      try {
        const isQueued = job.state === "queued"; // its place changes without a change of its own
        job = await ask(`/v1/jobs/${this.id}?wait=${isFirst ? 0 : isQueued ? 2 : 20}`);
        isFirst = false;
        show("trouble", "");
        if (ENDED.includes(job.state)) return location.reload();
        this.show(job);
        wait = 500;
      } catch (error) {
        if (error instanceof Refused && [404, 410].includes(error.status)) return location.reload();
        wait = Math.min(30000, wait * 2);
        show("trouble", error instanceof Refused ? error.message : "The service does not answer. The job is not lost: it is done when the service is back.");
      }
      await pause(wait / 5);
      await visible();
    }
  }

  show({ state, step, place }) {
    const at = STEPS.indexOf(state === "queued" ? "queued" : step);
    document.querySelectorAll("#steps li").forEach((one, number) => {
      one.classList.toggle("past", number < at || (state === "running" && at < 0 && number === 0));
      if (number === at) one.setAttribute("aria-current", "step");
      else one.removeAttribute("aria-current");
    });
    const words = state === "running" ? NOW[step] ?? "The service works on it." : place === undefined ? "" : place ? `${place} job${place === 1 ? " comes" : "s come"} before this one.` : "It is next.";
    if (words) show("now", words);
  }

  async cancel() {
    byId("cancel").disabled = true;
    try {
      await ask(`/v1/jobs/${this.id}/cancel`, "POST");
      show("now", "The job is being cancelled.");
    } catch (error) {
      byId("cancel").disabled = false;
      if (!(error instanceof Refused && error.status === 409)) show("trouble", error instanceof Refused ? error.message : "The service does not answer.");
    }
  }

  async remove() {
    if (!confirm("Delete this job and its result?")) return;
    try {
      await ask(`/v1/jobs/${this.id}`, "DELETE");
    } catch (error) {
      if (!(error instanceof Refused && [404, 410].includes(error.status))) return show("trouble", error instanceof Refused ? error.message : "The service does not answer.");
    }
    location.assign("/");
  }
}

// ---- The studies of the PACS: the service writes the list, which is fetched anew from time to time

const LOOK_MS = 5000;

async function followStudies() {
  byId("main").addEventListener("click", (event) => { if (event.target.dataset.send) sendAgain(event.target); });
  for (let wait = LOOK_MS; ; ) {
    await pause(wait);
    await visible();
    try {
      const answer = await fetch("/studies", { headers: { accept: "text/html" } });
      if (answer.redirected) return location.reload(); // the login
      if (!answer.ok) throw new Refused(answer.status, null);
      const found = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("studies");
      if (found && !byId("studies").contains(document.activeElement)) byId("studies").replaceWith(found); // nobody loses the focus
      localTimes();
      show("trouble", "");
      wait = LOOK_MS;
    } catch {
      wait = Math.min(60000, wait * 2);
      show("trouble", "The service does not answer. The list may be old.");
    }
  }
}

async function sendAgain(button) {
  button.disabled = true;
  try {
    await ask(`/v1/studies/${button.dataset.send}/send-again`, "POST");
    location.reload();
  } catch (error) {
    button.disabled = false;
    show("trouble", error instanceof Refused ? error.message : "The service does not answer.");
  }
}

localTimes();
if (document.body.dataset.page === "start") {
  new Upload();
  new JobList();
}
if (document.body.dataset.page === "job") new JobPage();
if (document.body.dataset.page === "studies") followStudies();

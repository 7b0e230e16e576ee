// Uses the pages of hilum serve in Chromium as a person does, and prints what it saw as JSON.
// Usage: node service.mjs ADDRESS TOKEN ZIP FOLDER_OF_A_SCAN FOLDER_FOR_SCREENSHOTS PID_OF_A_WORKER ...
import { chromium } from "playwright-core";
import fs from "node:fs";
import path from "node:path";

const [address, token, zip, scan, shots, ...workers] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: [
    "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
  ],
});
const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: "light" });
context.setDefaultTimeout(20000);
await context.addInitScript(() => { // what leaves the browser
  const send = XMLHttpRequest.prototype.send;
  XMLHttpRequest.prototype.send = function (body) {
    sessionStorage.sent = JSON.stringify([...body.getAll("files")].map((file) => file.name));
    send.call(this, body);
  };
});
const page = await context.newPage();
const cdp = await context.newCDPSession(page);
const seen = { requests: [], console: [], overflow: {}, dark: {}, unnamed: {}, refusals: {}, steps: [], progress: [] };
page.on("request", (request) => { if (!/^(data|blob):/.test(request.url())) seen.requests.push(request.url()); });
page.on("console", (message) => seen.console.push(`${message.type()}: ${message.text()} (${message.location().url})`));
page.on("pageerror", (error) => seen.console.push(`error: ${error.message}`));
page.on("dialog", (dialog) => dialog.accept());
let chosen; // what a file dialog is answered with
page.on("filechooser", (chooser) => chooser.setFiles(chosen)); // from the start, so that no dialog comes before it

const text = (pattern) => page.locator(pattern).innerText();
const focused = () => page.evaluate(() => document.activeElement.id);
const sent = async () => JSON.parse(await page.evaluate(() => sessionStorage.sent));
const shot = (name) => page.screenshot({ path: path.join(shots, `${name}.png`) });

async function drop(...files) {
  const box = await page.locator("#drop").boundingBox();
  const at = { x: box.x + box.width / 2, y: box.y + box.height / 2, data: { items: [], files, dragOperationsMask: 1 } };
  for (const type of ["dragEnter", "dragOver", "drop"]) await cdp.send("Input.dispatchDragEvent", { type, ...at });
  await page.waitForFunction(() => document.activeElement.id === "send" || !document.getElementById("trouble").hidden);
}

async function slow(bytesPerSecond) {
  await cdp.send("Network.emulateNetworkConditions", { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: bytesPerSecond });
}

const signalWorkers = (name) => workers.forEach((pid) => process.kill(Number(pid), name)); // SIGSTOP: jobs wait for certain

async function tabTo(id) {
  for (let press = 0; press < 30; press++) {
    if ((await focused()) === id) return true;
    await page.keyboard.press("Tab");
  }
  return false;
}

async function look(name) {
  for (const width of [400, 1280]) {
    await page.setViewportSize({ width, height: 900 });
    seen.overflow[`${name} ${width}`] = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    await shot(`${name} ${width}`);
  }
  await page.emulateMedia({ colorScheme: "dark" });
  seen.dark[name] = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await page.emulateMedia({ colorScheme: "light" });
  seen.unnamed[name] = await page.evaluate(() =>
    [...document.querySelectorAll("main button, main input, main select, main iframe")]
      .filter((one) => !(one.innerText || one.getAttribute("aria-label") || one.title || one.labels?.[0]?.innerText))
      .map((one) => one.outerHTML),
  );
}

// Log in, by keyboard; the first token is wrong.
await page.goto(`${address}/`);
seen.first = new URL(page.url()).pathname;
await page.keyboard.type("a token that nobody has");
await page.keyboard.press("Enter");
seen.wrong = await text("[role=alert]");
await look("login");
await page.locator("#token").focus();
await page.keyboard.type(token);
await page.keyboard.press("Enter");
await page.waitForURL(`${address}/`);
seen.cookies = await context.cookies();

// Drop a zip, and follow it to its result.
await cdp.send("Network.enable");
await drop(zip);
seen.chosen = await text("#chosen");
await slow(120_000);
await page.keyboard.press("Enter");
while (new URL(page.url()).pathname === "/") {
  try {
    seen.progress.push(await page.evaluate(() => document.getElementById("progress")?.value ?? null));
  } catch { /* between two pages */ }
  await new Promise((done) => setTimeout(done, 60));
}
await slow(-1);
seen.sent = await sent();
while (!(await page.locator("#h-answer").count())) {
  try {
    const step = await page.evaluate(() => document.querySelector("#steps [aria-current]")?.dataset.step ?? null);
    if (step && step !== seen.steps.at(-1)) seen.steps.push(step);
  } catch { /* between two pages */ }
  await new Promise((done) => setTimeout(done, 15));
}
seen.job = new URL(page.url()).pathname;
seen.decision = await text("#h-answer");
seen.links = await page.locator(".files a").allInnerTexts();

// The viewer within the page.
const viewer = await (await page.waitForSelector("#viewer")).contentFrame();
await viewer.waitForFunction(() => document.body.dataset.ready === "true", null, { timeout: 60000 });
seen.sandbox = await page.getAttribute("#viewer", "sandbox");
seen.viewer = await viewer.locator(".decision").innerText();
seen.layers = await viewer.locator(".layers label").allInnerTexts();
const drawn = () => viewer.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
const readout = async () => { await drawn(); return viewer.locator("#readout").innerText(); };
await page.evaluate(() => scrollTo(0, document.body.scrollHeight));
seen.readouts = { start: await readout() };
const tile = await viewer.locator("#planes").boundingBox();
await page.mouse.move(tile.x + tile.width / 4, tile.y + (3 * tile.height) / 4); // the axial plane
await page.mouse.wheel(0, 200);
await viewer.waitForFunction((old) => document.getElementById("readout").innerText !== old, seen.readouts.start);
seen.readouts.wheel = await readout();
await viewer.locator("[data-window='1']").click();
seen.window = await viewer.evaluate(() => [nv.volumes[0].cal_min, nv.volumes[0].cal_max]);
await viewer.locator("[data-lps]").last().click();
seen.jump = await viewer.locator("[data-lps]").last().getAttribute("data-lps");
seen.readouts.jump = await readout();
await viewer.locator("#planes").focus();
await page.keyboard.press("PageUp");
seen.readouts.key = await readout();
await shot("viewer");
await page.evaluate(() => document.getElementById("viewer").remove()); // which draws for long
await look("job");

// By keyboard alone: files, the upload, and the cancelling of a job that waits behind others.
const body = fs.readFileSync(zip);
const headers = { authorization: `Bearer ${token}`, "content-type": "application/octet-stream" };
signalWorkers("SIGSTOP");
for (let n = 0; n < 6; n++) await fetch(`${address}/v1/predictions?model=net&outputs=page,maps`, { method: "POST", headers, body });
await page.goto(`${address}/`);
seen.reaches = await tabTo("pick-files");
chosen = zip;
await page.keyboard.press("Enter");
await page.waitForFunction(() => document.activeElement.id === "send");
await page.keyboard.press("Enter");
await page.waitForURL(/\/jobs\//);
seen.waits = await text("#now");
seen.cancels = await tabTo("cancel");
await page.keyboard.press("Enter");
await page.waitForSelector("#h-answer");
seen.cancelled = await text("#h-answer");

// The list of jobs: cancel another one, and see the others end.
await page.goto(`${address}/`);
const row = page.locator("#jobs tbody tr", { hasText: "waiting" }).first();
seen.other = await row.locator("a").innerText();
await row.getByRole("button", { name: "Cancel" }).click();
await page.locator("#jobs tbody tr", { hasText: seen.other }).locator(".state.cancelled").waitFor();
signalWorkers("SIGCONT");
await page.waitForFunction(() => !document.querySelector(".state.queued, .state.running"), null, { timeout: 40000 });
seen.rows = await page.locator("#jobs tbody tr").evaluateAll((rows) => rows.map((one) => [...one.cells].map((cell) => cell.innerText)));
seen.news = await page.locator("#news").textContent();
await page.getByRole("button", { name: `Delete job ${seen.other}` }).click();
await page.locator("#jobs tbody tr", { hasText: seen.other }).waitFor({ state: "detached" });

// Drop a folder with folders, and cancel its upload.
await drop(scan);
seen.folder = await text("#chosen");
await slow(40_000);
await page.keyboard.press("Enter");
await page.waitForFunction(() => document.getElementById("progress").value > 0);
seen.stop = await focused();
await look("upload");
await page.keyboard.press("Enter");
await page.waitForSelector("#trouble:not([hidden])");
seen.stopped = await text("#trouble");
seen.names = await sent();
await slow(-1);

// What the service refuses is said in a sentence, and the scan stays chosen.
for (const status of [408, 413, 429, 507, 0]) {
  const detail = `the service has said ${status}`;
  await page.route("**/v1/predictions?*", (route) =>
    status ? route.fulfill({ status, headers: { "retry-after": "7" }, json: { status, code: "x", detail } }) : route.abort(),
  );
  await page.locator("#send").click();
  await page.waitForFunction(() => !document.getElementById("trouble").hidden && document.getElementById("sending").hidden);
  seen.refusals[status] = await text("#trouble");
  await page.unroute("**/v1/predictions?*");
}
seen.still = await text("#chosen");
await look("start");

// A model that takes a point.
await page.locator("#model").selectOption("spot");
await page.locator("#point-x").fill("12.5");
await page.locator("#point-y").fill("-3");
await page.locator("#point-z").fill("1e3"); // is no number of mm
await page.locator("#send").click();
seen.invalid = await page.evaluate(() => document.querySelector("#point-z:invalid") !== null);
await page.locator("#point-z").fill("40,5");
const [asked] = await Promise.all([page.waitForRequest("**/v1/predictions?*"), page.locator("#send").click()]);
seen.query = Object.fromEntries(new URL(asked.url()).searchParams);
await page.waitForURL(/\/jobs\//);
await page.waitForSelector("#h-answer");

await page.goto(`${address}/models/net`);
await look("model");
await page.getByRole("button", { name: "Log out" }).click();
await page.waitForURL(`${address}/login`);
seen.out = (await context.cookies()).length;
await browser.close();
console.log(JSON.stringify(seen));

// Opens a page of hilum view in Chromium, uses it as a person does, and prints what it saw as JSON.
// Usage: node view.mjs PAGE FOLDER_FOR_SCREENSHOTS
import { chromium } from "playwright-core";
import path from "node:path";

const [file, folder] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: [
    "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
  ],
});
const page = await browser.newPage({ viewport: { width: 1280, height: 900 }, colorScheme: "light" });
const seen = { requests: [], console: [], tiles: {}, readouts: {}, overflow: {}, buttons: {} };
page.on("request", (request) => {
  if (!/^(data|blob):/.test(request.url())) seen.requests.push(request.url());
});
page.on("console", (message) => seen.console.push(`${message.type()}: ${message.text()}`));
page.on("pageerror", (error) => seen.console.push(`error: ${error.message}`));
await page.goto(`file://${file}`);
await page.waitForFunction(() => document.body.dataset.ready === "true", null, { timeout: 60000 });

const drawn = () => page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
const readout = () => page.textContent("#readout");
async function shot(name) {
  await page.evaluate(() => document.activeElement.blur());
  await drawn();
  const box = await page.locator("#planes").boundingBox();
  seen.tiles[name] = await page.evaluate(() =>
    [...document.querySelectorAll(".sides > div")].map((tile) => ({
      text: tile.innerText,
      rectangle: ["left", "top", "width", "height"].map((side) => parseFloat(tile.style[side])),
    })),
  );
  await page.addStyleTag({ content: ".sides { visibility: hidden }" });
  await page.screenshot({ path: path.join(folder, `${name}.png`), clip: box });
  await page.evaluate(() => document.head.lastElementChild.remove());
}

await page.evaluate(() => nv.setCrosshairWidth(0)); // it would hide what is looked for
for (const button of await page.locator("button[data-lps]").all()) {
  const name = await button.innerText();
  await button.click();
  await drawn();
  seen.readouts[name] = await readout();
  await shot(name);
}
await page.getByRole("button", { name: "Bead" }).click();
await page.keyboard.press("o");
await shot("without overlays");
for (const key of ["2", "3", "1"]) {
  await page.keyboard.press(key);
  seen.buttons[key] = await page.evaluate(() => document.querySelector("[data-window][aria-pressed=true]").textContent);
  await shot(`window ${key}`);
}
await page.locator("#planes").focus();
for (const key of ["PageUp", "ArrowLeft", "Shift+ArrowDown"]) {
  await page.keyboard.press(key);
  await drawn();
  seen.readouts[key] = await readout();
}
const canvas = await page.locator("#planes").boundingBox();
const [left, top, width, height] = seen.tiles.Bead.find((tile) => tile.text.startsWith("Axial")).rectangle;
await page.mouse.move(canvas.x + left + width / 2, canvas.y + top + height / 2);
await page.mouse.wheel(0, 100);
await page.waitForFunction((old) => document.getElementById("readout").textContent !== old, seen.readouts["Shift+ArrowDown"]);
seen.readouts.wheel = await readout();
for (let press = 0; press < 5; press++) {
  await page.keyboard.press("v");
  await drawn();
  seen.buttons[`v ${press}`] = await page.evaluate(() => document.querySelector("[data-layout][aria-pressed=true]").textContent);
}
await page.keyboard.press("?");
seen.helps = await page.locator("#help").isVisible();
await page.keyboard.press("Escape");
seen.closes = !(await page.locator("#help").isVisible());
seen.unnamed = await page.evaluate(() =>
  [...document.querySelectorAll("button, input")]
    .filter((one) => !(one.innerText || one.getAttribute("aria-label") || one.labels?.[0]?.innerText))
    .map((one) => one.outerHTML),
);
for (const width of [400, 1280, 1920]) {
  await page.setViewportSize({ width, height: 900 });
  await drawn();
  seen.overflow[width] = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
}
await page.emulateMedia({ colorScheme: "dark" });
await drawn();
seen.dark = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
await browser.close();
console.log(JSON.stringify(seen));

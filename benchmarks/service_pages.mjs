// Drops a scan on the page of hilum serve in Chromium, takes pictures of all pages, and prints problems as JSON.
// Usage: node service_pages.mjs ADDRESS ZIP FOLDER quick|all
import { chromium } from "../tests/browser/node_modules/playwright-core/index.mjs";
import path from "node:path";

const [address, zip, folder, extent] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: [
    "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
  ],
});
const page = await browser.newPage({ viewport: { width: 1280, height: 900 }, colorScheme: "light" });
page.setDefaultTimeout(60000);
const cdp = await page.context().newCDPSession(page);
const problems = [];
const pages = [];
page.on("request", (request) => {
  const url = request.url();
  if (!/^(data|blob):/.test(url) && !url.startsWith(`${address}/`)) problems.push(`request: ${url}`);
});
page.on("console", (message) => { if (message.type() === "error") problems.push(`console: ${message.text()}`); });
page.on("pageerror", (error) => problems.push(`error: ${error.message}`));

async function look(name) {
  let views = 0;
  for (const width of extent === "quick" ? [400] : [1280, 400]) {
    for (const colorScheme of extent === "quick" ? ["light"] : ["light", "dark"]) {
      await page.setViewportSize({ width, height: 900 });
      await page.emulateMedia({ colorScheme });
      await page.waitForTimeout(1000); // until all is drawn anew
      const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      if (over > 0) problems.push(`${name}: ${over} pixels wider than a window of ${width}`);
      await page.screenshot({ path: path.join(folder, `${name}-${width}-${colorScheme}.png`), fullPage: true });
      views++;
    }
  }
  await page.setViewportSize({ width: 1280, height: 900 });
  await page.emulateMedia({ colorScheme: "light" });
  pages.push({ page: name, views });
}

async function drop() {
  const box = await page.locator("#drop").boundingBox();
  const at = { x: box.x + box.width / 2, y: box.y + box.height / 2, data: { items: [], files: [zip], dragOperationsMask: 1 } };
  for (const type of ["dragEnter", "dragOver", "drop"]) await cdp.send("Input.dispatchDragEvent", { type, ...at });
  await page.waitForFunction(() => document.activeElement.id === "send");
}

await page.goto(`${address}/`);
await drop();
await look("start");
await page.locator("#send").click();
await page.waitForURL(/\/jobs\//);
const job = await (await page.waitForSelector("#viewer")).contentFrame();
await job.waitForFunction(() => document.body.dataset.ready === "true");
await job.locator("[data-lps]").last().click(); // the peak of the map
await job.evaluate(() => { scrollTo(0, 0); document.activeElement.blur(); });
await page.mouse.move(0, 0);
await page.waitForTimeout(1000);
await page.screenshot({ path: path.join(folder, "serve-demo.png"), fullPage: true });
await look("job");
const model = await page.getByRole("link", { name: "net" }).getAttribute("href");
await page.goto(`${address}${model}`);
await look("model");
await page.goto(`${address}/`);
await page.locator("#jobs tbody tr").first().waitFor();
await look("jobs");
await browser.close();
console.log(JSON.stringify({ problems: [...new Set(problems)], pages }));

// Opens pages of the documentation in Chromium, searches, and prints what it saw as JSON.
// Usage: node site.mjs ADDRESS QUERY FOLDER_FOR_SCREENSHOTS PAGE ...
import { chromium } from "playwright-core";
import path from "node:path";

const [address, query, shots, ...pages] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"],
});
const seen = { requests: [], console: [], failed: [], overflow: {}, scrolls: {}, background: {}, results: [] };
for (const scheme of ["light", "dark"]) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: scheme });
  context.setDefaultTimeout(20000);
  const page = await context.newPage();
  page.on("request", (request) => { if (!/^(data|blob):/.test(request.url())) seen.requests.push(request.url()); });
  page.on("response", (response) => { if (response.status() >= 400) seen.failed.push(response.url()); });
  page.on("console", (message) => { if (message.type() !== "log") seen.console.push(message.text()); });
  page.on("pageerror", (error) => seen.console.push(`error: ${error.message}`));
  for (const name of pages) {
    await page.setViewportSize({ width: 1280, height: 900 });
    await page.goto(`${address}/${name}`, { waitUntil: "load" });
    for (const width of [1280, 400]) {
      await page.setViewportSize({ width, height: 900 });
      await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
      const key = `${name} ${width} ${scheme}`;
      seen.overflow[key] = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      seen.background[key] = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      // Wide tables and code that do not scroll in a box of their own.
      seen.scrolls[key] = await page.evaluate(() =>
        [...document.querySelectorAll("article table, article pre")]
          .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
          .filter((one) => {
            for (let box = one; box.tagName !== "ARTICLE"; box = box.parentElement)
              if (/auto|scroll/.test(getComputedStyle(box).overflowX)) return false;
            return true;
          })
          .map((one) => one.outerHTML.slice(0, 80)),
      );
      if (shots) await page.screenshot({ path: path.join(shots, `${name.replaceAll("/", "-")} ${width} ${scheme}.png`) });
    }
  }
  if (scheme === "light") {
    await page.setViewportSize({ width: 1280, height: 900 });
    await page.goto(`${address}/index.html`);
    await page.keyboard.press("/");
    await page.keyboard.type(query);
    await page.waitForTimeout(3000);
    if (shots) await page.screenshot({ path: path.join(shots, "search.png") });
    seen.html = await page.evaluate(() => document.querySelector(".md-search")?.outerHTML ?? "");
  }
  await context.close();
}
await browser.close();
console.log(JSON.stringify(seen));

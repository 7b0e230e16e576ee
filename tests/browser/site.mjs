// Opens pages of the documentation in Chromium, searches in it, and prints what it saw as JSON.
// Usage: node site.mjs ADDRESS QUERY FOLDER_FOR_SCREENSHOTS PAGE ...
import { chromium } from "playwright-core";
import path from "node:path";

const [address, query, shots, ...names] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"],
});
const seen = { requests: [], console: [], failed: [], overflow: {}, background: {}, clipped: {}, results: [] };
const drawn = (page) => page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
const overflow = () => document.documentElement.scrollWidth - document.documentElement.clientWidth;
const clipped = () => // tables and code that are wider than the page and scroll in no box of their own
  [...document.querySelectorAll("article table, article pre")]
    .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
    .filter((one) => {
      for (let box = one; box.tagName !== "ARTICLE"; box = box.parentElement)
        if (/auto|scroll/.test(getComputedStyle(box).overflowX)) return false;
      return true;
    })
    .map((one) => one.outerHTML.slice(0, 80));

for (const colorScheme of ["light", "dark"]) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme });
  context.setDefaultTimeout(20000);
  const page = await context.newPage();
  page.on("request", (request) => { if (!/^(data|blob):/.test(request.url())) seen.requests.push(request.url()); });
  page.on("response", (response) => { if (response.status() >= 400) seen.failed.push(response.url()); });
  page.on("console", (message) => { if (/error|warning/.test(message.type())) seen.console.push(message.text()); });
  page.on("pageerror", (error) => seen.console.push(`error: ${error.message}`));
  for (const name of names) {
    await page.setViewportSize({ width: 1280, height: 900 });
    await page.goto(`${address}/${name}`, { waitUntil: "load" });
    for (const width of [1280, 400]) {
      await page.setViewportSize({ width, height: 900 });
      await drawn(page);
      const key = `${name} ${width} ${colorScheme}`;
      seen.overflow[key] = await page.evaluate(overflow);
      seen.clipped[key] = await page.evaluate(clipped);
      seen.background[key] = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      if (shots) await page.screenshot({ path: path.join(shots, `${key.replaceAll("/", "-")}.png`) });
    }
  }
  if (colorScheme === "light") {
    await page.setViewportSize({ width: 1280, height: 900 });
    await page.goto(`${address}/index.html`);
    await page.locator(".md-search__button").click();
    await page.locator("input[aria-label=Search]").fill(query);
    await page.locator("a[role=option]").first().waitFor();
    seen.results = await page.locator("a[role=option]").evaluateAll((links) => links.map((link) => link.href));
    await page.locator("a[role=option]").first().click();
    await page.waitForURL((url) => !url.pathname.endsWith("/index.html"));
    seen.found = await page.locator("article").innerText();
  }
  await context.close();
}
await browser.close();
console.log(JSON.stringify(seen));

// Takes pictures of pages on disk in Chromium. Usage: node take_pictures.mjs '[{"page": ..., "out": ..., ...}]'
// Of each: width, height, scheme (light or dark), media (screen or print), click (a selector), element (a selector).
import { chromium } from "../../tests/browser/node_modules/playwright-core/index.mjs";

const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: [
    "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
  ],
});
for (const one of JSON.parse(process.argv[2])) {
  const size = { width: one.width ?? 1280, height: one.height ?? 900 };
  const page = await browser.newPage({ viewport: size, colorScheme: one.scheme ?? "light" });
  page.setDefaultTimeout(120000);
  await page.emulateMedia({ media: one.media ?? "screen" });
  await page.goto(`file://${one.page}`);
  if (one.click) {
    await page.waitForFunction(() => document.body.dataset.ready === "true");
    await page.locator(one.click).last().click();
    await page.evaluate(() => { scrollTo(0, 0); document.activeElement.blur(); });
    await page.mouse.move(0, 0);
  }
  await page.waitForTimeout(1000); // until all is drawn anew
  await (one.element ? page.locator(one.element) : page).screenshot({ path: one.out });
  await page.close();
}
await browser.close();

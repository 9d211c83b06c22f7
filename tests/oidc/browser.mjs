// A person with a browser, for tests: logs in, asks for a completion and reads it while it arrives, meets pages of others,
// logs out. Arguments: the address of the application, and those of a page of another site and of another
// origin of the same site. It prints one line for each step, and ends with an error at the first that fails.
import { chromium } from 'playwright-core';

const [app, ...foreign] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
  ],
});
const context = await browser.newContext();
context.setDefaultTimeout(20_000);
const page = await context.newPage();
const step = (text) => console.log(text);
const check = (condition, text) => {
  if (!condition) throw new Error(text);
};

try {
  // Without a session: the page to log in, and back.
  await page.goto(app);
  await page.fill('input[name=login]', 'alice');
  await page.fill('input[name=password]', 'any');
  await page.click('button[type=submit]');
  await page.waitForURL(/interaction/);
  await page.click('button[type=submit]');
  await page.waitForURL(`${app}/`);
  step('logged in');

  // The second part is sent once the page has asked for it, so that the first was read before the end.
  await page.click('#ask');
  await page.waitForFunction(() => document.querySelector('#out').textContent.includes('[DONE]'));
  const out = await page.textContent('#out');
  check(out.startsWith('200 ') && out.includes('one') && out.includes('two'), `the completion was ${out}`);
  step('streamed');

  const cookies = (await context.cookies(app)).map((cookie) => cookie.name);
  check(cookies.includes('BearerToken'), `the session has the cookies ${cookies}`);
  check(!(await page.evaluate(() => document.cookie)).includes('BearerToken'), 'a script can read the token');

  // Pages of others make the browser send a request that acts, as a form and by a script.
  for (const address of foreign) {
    const other = await context.newPage();
    await other.goto(`${address}/?form=${encodeURIComponent(app)}`);
    const [answer] = await Promise.all([
      other.waitForResponse((response) => response.url() === `${app}/v1/chat/completions`),
      other.click('#send'),
    ]);
    const body = await answer.text();
    check(answer.status() === 403 && body.includes('csrf_failed'), `a form of ${address} got ${answer.status()} ${body}`);
    step('refused a form');
    await other.goto(`${address}/`);
    const seen = other.waitForResponse((response) => response.url() === `${app}/v1/chat/completions`);
    await other.evaluate(async (target) => {
      const options = { method: 'POST', mode: 'no-cors', credentials: 'include', body: '{"model":"qwen"}' };
      await fetch(`${target}/v1/chat/completions`, options).catch(() => {});
    }, app);
    check([401, 403].includes((await seen).status()), `a script of ${address} got ${(await seen).status()}`);
    step('refused a script');
    await other.close();
  }

  // The session ends at the filter and at the provider: the next page is that to log in.
  await page.goto(`${app}/signout`);
  await page.click('button[type=submit]');
  await page.waitForLoadState();
  await page.goto(app);
  await page.waitForSelector('input[name=login]');
  check(!(await context.cookies(app)).some((cookie) => cookie.name === 'BearerToken'), 'the token is still there');
  step('logged out');
} catch (error) {
  console.error(`${error.message}\nat ${page.url()}: ${(await page.content()).slice(0, 2000)}`);
  process.exitCode = 1;
}
await browser.close();

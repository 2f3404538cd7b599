// Opens the page in a real Chromium, which reaches the shop through the outbound listener of `web` as its proxy, and insists on
// what it shows:
//
//   npm install --prefix .cache/browser --no-save playwright-core@1.65.1       (Debian: apt-get install chromium)
//   .venv/bin/flui up compose/shop.yaml -- node examples/browser/run.mjs
//
// CHROMIUM names another browser, MODULES the folder that has playwright-core. Exit codes: 0 all of it is as it should be, 1 not.
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const HERE = dirname(fileURLToPath(import.meta.url));
const MODULES = resolve(process.env.MODULES ?? join(HERE, '../../.cache/browser/node_modules'));
const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const FLAGS = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const TYPES = { html: 'text/html', js: 'text/javascript' };
const ORIGINS = ['page.example', 'other.example']; // the first may call, says compose/shop.yaml
const PATIENCE_MS = 30_000;
const { chromium } = createRequire(import.meta.url)(join(MODULES, 'playwright-core'));

const outbound = process.env.FLUI_WEB_OUTBOUND;
if (!outbound) {
  console.error('FLUI_WEB_OUTBOUND is not set; run me as: flui up compose/shop.yaml -- node examples/browser/run.mjs');
  process.exit(2);
}

let failed = 0;
function insist(holds, what, saw) {
  console.log(`${holds ? '  ok  ' : '  NOT '} ${what}${holds ? '' : `\n       but: ${JSON.stringify(saw)}`}`);
  if (!holds) failed += 1;
}

// Serves the page on loopback, where the browser finds both origins without the proxy. (To answer in the browser's place, as tools
// for tests can, would not do: with that on, the questions that it asks beforehand, CORS preflights, are never sent.)
const pages = createServer(async (request, response) => {
  const name = new URL(request.url, 'http://page').pathname.slice(1) || 'index.html';
  const type = TYPES[name.split('.').pop()];
  response.writeHead(type ? 200 : 404, { 'content-type': type ?? 'text/plain' });
  response.end(type ? await readFile(join(HERE, name)) : '');
}).listen(0, '127.0.0.1');
await once(pages, 'listening');

async function opened(browser, origin) {
  const page = await (await browser.newContext()).newPage();
  page.on('pageerror', (error) => insist(false, 'the page has no error of its own', error.message));
  await page.goto(`${origin}/?at=http://counter`);
  await page.waitForSelector('#done:not([hidden])', { state: 'visible', timeout: PATIENCE_MS });
  return async (id) => (await page.textContent(`#${id}`)).trim().split('\n');
}

const found = `--host-resolver-rules=${ORIGINS.map((name) => `MAP ${name} 127.0.0.1:${pages.address().port}`)}`;
const browser = await chromium.launch({
  executablePath: CHROMIUM,
  args: [...FLAGS, found],
  proxy: { server: `http://${outbound}`, bypass: ORIGINS.join() },
});
try {
  console.log(`Chromium ${browser.version()}, by way of ${outbound}`);
  const page = await (await browser.newContext()).newPage();
  const answer = await page.goto('http://stock/items/pear');
  insist(answer.status() === 200, 'a plain GET reaches a service by its name', answer.status());
  const refused = await page.goto('http://warehouse/items/pear');
  insist(refused.status() === 403, 'and one that no rule allows is refused', refused.status());

  const shown = await opened(browser, 'http://page.example');
  for (const [kind, code] of [['web', '3'], ['connect', 'invalid_argument']]) {
    const name = kind === 'web' ? 'gRPC-Web' : 'Connect';
    for (const method of ['reserve', 'watch']) {
      const lines = await shown(`${kind}-${method}`);
      const told = lines.length === 2 && /^fig: \d+ left, says warehouse, asked by spiffe:\/\/shop\/counter$/.test(lines[0]) && lines[1] === 'end';
      insist(told, `${name}: ${method} is answered by the warehouse, whom the counter asked`, lines);
    }
    const lines = await shown(`${kind}-refused`);
    insist(lines.length === 1 && lines[0].startsWith(`refused, ${code}: `), `${name}: the module's refusal arrives with its code and its words`, lines);
  }

  const other = await opened(browser, 'http://other.example');
  for (const id of ['web-reserve', 'connect-reserve']) {
    const lines = await other(id);
    insist(lines.length === 1 && lines[0].startsWith('the browser refuses: '), `a page of another origin learns nothing (${id})`, lines);
  }
} finally {
  await browser.close();
  pages.close();
}
process.exit(failed ? 1 : 0);

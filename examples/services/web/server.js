// The shop's front door: a page, and an order placed with `orders` through the sidecar beside it. Only Node's own library.
'use strict';
const http = require('http');

const PORT = Number(process.env.PORT || 8000);
const HOST = process.env.HOST || '127.0.0.1';
const OUTBOUND = new URL(process.env.OUTBOUND || 'http://127.0.0.1:15001');
const agent = new http.Agent({ keepAlive: true, maxSockets: 64 });

const PAGE = `<!doctype html><html lang="en"><meta charset="utf-8"><title>shop</title>
<h1>Shop</h1><form action="/order"><input name="item" value="apple"><input name="quantity" value="1"><button>Order</button></form></html>
`;

// Asks a service for something: the sidecar is where we connect, the Host field says whom we want.
function ask(service, method, path, seen, headers, value) {
  const body = value === undefined ? '' : JSON.stringify(value);
  const fields = { host: service, ...headers };
  if (seen.headers.traceparent) fields.traceparent = seen.headers.traceparent;
  if (body) Object.assign(fields, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) });
  return new Promise((resolve, reject) => {
    const options = { host: OUTBOUND.hostname, port: OUTBOUND.port, method, path, headers: fields, agent };
    const request = http.request(options, (response) => {
      const chunks = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('end', () => resolve({ status: response.statusCode, type: response.headers['content-type'], body: Buffer.concat(chunks) }));
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end(body);
  });
}

async function order(url, seen) {
  const item = url.searchParams.get('item') || '';
  const quantity = Number(url.searchParams.get('quantity') || '1');
  const key = { 'flui-key': item };
  if (!/^[a-z0-9-]{1,40}$/.test(item)) return { status: 400, type: 'application/json', body: '{"error": "item: a-z, 0-9 and - only"}\n' };
  const placed = await ask('orders', 'POST', '/orders', seen, key, { item, quantity });
  if (placed.status !== 201) return placed;
  return ask('orders', 'GET', `/orders/${JSON.parse(placed.body).id}`, seen, key);
}

async function answer(seen) {
  const url = new URL(seen.url, 'http://web');
  if (seen.method !== 'GET') return { status: 405, type: 'application/json', body: '{"error": "GET only"}\n' };
  if (url.pathname === '/') return { status: 200, type: 'text/html; charset=utf-8', body: PAGE };
  if (url.pathname === '/healthz') return { status: 200, type: 'text/plain', body: 'ok\n' };
  if (url.pathname === '/order') return order(url, seen);
  return { status: 404, type: 'application/json', body: '{"error": "no such page"}\n' };
}

const server = http.createServer((seen, reply) => {
  seen.resume();
  answer(seen).catch((error) => ({ status: 502, type: 'application/json', body: JSON.stringify({ error: error.message }) + '\n' }))
    .then(({ status, type, body }) => {
      reply.writeHead(status, { 'content-type': type || 'application/octet-stream', 'content-length': Buffer.byteLength(body) });
      reply.end(body);
    });
});
server.keepAliveTimeout = 75000; // longer than the sidecar keeps an idle connection: it is the one who hangs up
server.listen(PORT, HOST, () => console.error(`web: http://${HOST}:${server.address().port}`));
process.on('SIGTERM', () => process.exit(0));
process.on('SIGINT', () => process.exit(0));

// shop.Stock from a browser, by fetch alone: gRPC-Web and Connect, each a unary call and a server stream, with the few lines of
// protobuf that they need (../proto/shop.proto). A generated client does the same; nothing here is about FLUI Mesh.

// -- messages: fields of a message are numbers and texts --------------------------------------------------------------------

function varint(value) {
  const octets = [];
  for (; value > 127; value = Math.floor(value / 128)) octets.push(value % 128 | 128);
  return [...octets, value];
}

export function encode(fields) {
  return new Uint8Array(Object.entries(fields).flatMap(([number, value]) => {
    if (typeof value === 'number') return [...varint(number * 8), ...varint(value)];
    const octets = new TextEncoder().encode(value);
    return [...varint(number * 8 + 2), ...varint(octets.length), ...octets];
  }));
}

export function decode(octets) {
  const found = {};
  let at = 0;
  const number = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const octet = octets[at++];
      value += (octet & 127) * scale;
      if (octet < 128) return value;
    }
  };
  while (at < octets.length) {
    const tag = number();
    const value = number(); // of the field, or its length
    found[tag >> 3] = tag & 7 ? new TextDecoder().decode(octets.subarray(at, at += value)) : value;
  }
  return found;
}

const asked = { Reserve: ({ item, quantity }) => encode({ 1: item, 2: quantity }), Watch: ({ item, most }) => encode({ 1: item, 2: most }) };

function level(octets) {
  const { 1: item = '', 2: left = 0, 3: replica = '', 4: principal = '' } = decode(octets);
  return { item, left, replica, principal };
}

// -- frames: a flag, four octets of length, then as many octets; gRPC-Web and Connect streams share them --------------------

function framed(octets) {
  const all = new Uint8Array(5 + octets.length);
  new DataView(all.buffer).setUint32(1, octets.length);
  all.set(octets, 5);
  return all;
}

async function* frames(body) {
  let have = new Uint8Array();
  for (const reader = body.getReader(); ;) {
    const { value, done } = await reader.read();
    if (done) break;
    const more = new Uint8Array(have.length + value.length);
    more.set(have);
    more.set(value, have.length);
    have = more;
    while (have.length >= 5) {
      const end = 5 + new DataView(have.buffer, have.byteOffset).getUint32(1);
      if (have.length < end) break;
      yield { flag: have[0], octets: have.subarray(5, end) };
      have = have.subarray(end);
    }
  }
  if (have.length) throw new Error('the answer was cut');
}

export class Refused extends Error {
  constructor(code, text) {
    super(text);
    this.code = code;
  }
}

// -- the two protocols ------------------------------------------------------------------------------------------------------

// gRPC-Web: HTTP status 200 whatever happens; the status is in the head, or in a last frame whose flag is 128.
export async function* grpcWeb(at, method, message, fields = {}) {
  const answer = await fetch(`${at}/shop.Stock/${method}`, {
    method: 'POST',
    headers: { 'content-type': 'application/grpc-web+proto', 'x-grpc-web': '1', 'grpc-timeout': '10S', ...fields },
    body: framed(asked[method](message)),
  });
  let status = answer.headers.get('grpc-status');
  let text = answer.headers.get('grpc-message') ?? '';
  for await (const { flag, octets } of frames(answer.body)) {
    if (flag !== 128) {
      yield level(octets);
      continue;
    }
    const trailers = new Map(new TextDecoder().decode(octets).trim().split('\r\n').map((line) => line.split(/:\s*/)));
    status = trailers.get('grpc-status');
    text = trailers.get('grpc-message') ?? '';
  }
  if (status !== '0') throw new Refused(Number(status ?? 2), decodeURIComponent(text));
}

// Connect: a unary call is a POST like any other, its error an HTTP status and JSON; a stream ends with a frame whose flag is 2.
export async function connect(at, method, message, fields = {}) {
  const answer = await fetch(`${at}/shop.Stock/${method}`, {
    method: 'POST',
    headers: { 'content-type': 'application/proto', 'connect-protocol-version': '1', 'connect-timeout-ms': '10000', ...fields },
    body: asked[method](message),
  });
  if (answer.ok) return level(new Uint8Array(await answer.arrayBuffer()));
  const { code, message: text = '' } = await answer.json();
  throw new Refused(code, text);
}

export async function* connectStream(at, method, message, fields = {}) {
  const answer = await fetch(`${at}/shop.Stock/${method}`, {
    method: 'POST',
    headers: { 'content-type': 'application/connect+proto', 'connect-protocol-version': '1', ...fields },
    body: framed(asked[method](message)),
  });
  for await (const { flag, octets } of frames(answer.body)) {
    if (!(flag & 2)) {
      yield level(octets);
      continue;
    }
    const { error } = JSON.parse(new TextDecoder().decode(octets));
    if (error) throw new Refused(error.code, error.message ?? '');
    return;
  }
  throw new Error('the answer was cut');
}

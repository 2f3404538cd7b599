// The counter of the shop, by gRPC (../../proto/shop.proto): what it is asked for it asks the warehouse for, through the sidecar
// beside it, within the time that its own caller gave; a chat it holds itself. Only Node's own library: gRPC is HTTP/2 with five
// octets before each message and a status in the trailers.
'use strict';
const http2 = require('http2');

const PORT = Number(process.env.PORT || 8000);
const HOST = process.env.HOST || '127.0.0.1';
const OUTBOUND = process.env.OUTBOUND || 'http://127.0.0.1:15001';
const MOST = 64 * 1024; // octets of one message that it reads
const [INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, UNAVAILABLE] = [3, 4, 8, 12, 14];
const UNITS_MS = { H: 3600e3, M: 60e3, S: 1e3, m: 1, u: 1e-3, n: 1e-6 };

// -- messages -----------------------------------------------------------------------------------------------------------

// Fields 1 (a string) and 2 (a number) of a message; those of ReserveRequest, WatchRequest and Word are no others.
function read(octets) {
  let at = 0;
  const found = { text: '', number: 0 };
  const varint = () => {
    let value = 0, scale = 1, octet;
    do {
      if (at >= octets.length) throw new Error('it ends too early');
      octet = octets[at++];
      value += (octet & 127) * scale;
      scale *= 128;
    } while (octet & 128);
    return value;
  };
  while (at < octets.length) {
    const tag = varint();
    if ((tag & 7) === 0) {
      const value = varint();
      if (tag >> 3 === 2) found.number = value;
    } else if ((tag & 7) === 2) {
      const length = varint();
      if (at + length > octets.length) throw new Error('it ends too early');
      if (tag >> 3 === 1) found.text = octets.toString('utf8', at, at + length);
      at += length;
    } else throw new Error('a field of a kind that none of ours is');
  }
  return found;
}

function word(text) {
  const octets = Buffer.from(text);
  const length = octets.length < 128 ? [octets.length] : [octets.length & 127 | 128, octets.length >> 7]; // below 16 KiB
  return framed(Buffer.concat([Buffer.from([10, ...length]), octets]));
}

function framed(octets) {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(octets.length, 1);
  return Buffer.concat([head, octets]);
}

// Calls `each` with every whole message that has come, and `fail` with a status when one cannot be read.
function messages(stream, each, fail) {
  let have = Buffer.alloc(0);
  stream.on('data', (chunk) => {
    have = Buffer.concat([have, chunk]);
    while (have.length >= 5) {
      const length = have.readUInt32BE(1);
      if (have[0] !== 0) return fail(UNIMPLEMENTED, 'compressed messages are not read here');
      if (length > MOST) return fail(RESOURCE_EXHAUSTED, `a message of ${length} octets; ${MOST} at most`);
      if (have.length < 5 + length) return undefined;
      const octets = have.subarray(5, 5 + length);
      have = have.subarray(5 + length);
      try {
        each(read(octets), octets);
      } catch (error) {
        return fail(INVALID_ARGUMENT, error.message);
      }
    }
    return undefined;
  });
}

// -- answering ----------------------------------------------------------------------------------------------------------

// The answer to one call: messages, then a status, once.
class Answer {
  constructor(stream) {
    this.stream = stream;
    this.status = {};
    this.done = false;
    this.cancel = () => {}; // what ends when this call ends
    stream.on('wantTrailers', () => stream.sendTrailers(this.status));
    stream.on('error', () => {});
    stream.on('close', () => this.over());
  }

  over() {
    this.done = true;
    clearTimeout(this.timer);
    this.cancel();
  }

  within(ms) {
    this.endsAt = Date.now() + ms;
    this.timer = setTimeout(() => this.end(DEADLINE_EXCEEDED, 'the caller\'s time is up'), Math.min(ms, 2 ** 31 - 1));
  }

  send(octets) {
    if (this.done) return true;
    if (!this.stream.headersSent) this.stream.respond({ 'content-type': 'application/grpc' }, { waitForTrailers: true });
    return this.stream.write(octets);
  }

  end(status, text) {
    if (this.done || this.stream.destroyed) return;
    this.status = { 'grpc-status': String(status) };
    if (text) this.status['grpc-message'] = encodeURIComponent(text).replace(/%20/g, ' ');
    if (this.stream.headersSent) this.stream.end();
    else this.stream.respond({ 'content-type': 'application/grpc', ...this.status }, { endStream: true });
    this.over();
  }
}

// -- asking the warehouse -----------------------------------------------------------------------------------------------

let session;

function sidecar() {
  if (!session || session.closed || session.destroyed) {
    session = http2.connect(OUTBOUND);
    session.on('error', () => {}); // each stream hears of it too
    session.on('goaway', () => session.close());
  }
  return session;
}

// Puts one message to the warehouse and hands on what it answers. :authority says whom we want, flui-key which replica of it.
function ask(path, seen, item, octets, answer) {
  const fields = { ':method': 'POST', ':path': path, ':authority': 'warehouse', 'content-type': 'application/grpc', te: 'trailers', 'flui-key': item };
  if (seen.traceparent) fields.traceparent = seen.traceparent;
  if (answer.endsAt) fields['grpc-timeout'] = `${Math.max(1, Math.min(answer.endsAt - Date.now(), 99999999))}m`;
  const asked = sidecar().request(fields);
  answer.cancel = () => asked.destroyed || asked.close(http2.constants.NGHTTP2_CANCEL);
  let told = {};
  asked.on('response', (head) => { told = head; });
  asked.on('trailers', (trailers) => { told = trailers; });
  asked.on('data', (chunk) => {
    if (answer.send(chunk)) return;
    asked.pause(); // who reads slowly is not sent more
    answer.stream.once('drain', () => asked.resume());
  });
  asked.on('error', () => answer.end(UNAVAILABLE, 'the warehouse cannot be reached'));
  asked.on('close', () => {
    const text = told['grpc-message'] ? decodeURIComponent(told['grpc-message']) : '';
    answer.end(Number(told['grpc-status'] ?? UNAVAILABLE), text);
  });
  asked.end(framed(octets));
}

const calls = {
  '/shop.Stock/Reserve': (stream, seen, answer) => once(stream, seen, answer, ({ number }) => number >= 1 && number <= 1000),
  '/shop.Stock/Watch': (stream, seen, answer) => once(stream, seen, answer, () => true),
  '/shop.Stock/Chat': (stream, seen, answer) => {
    messages(stream, ({ text }) => answer.send(word(`counter: ${text}`)), (status, text) => answer.end(status, text));
    stream.on('end', () => answer.end(0));
  },
  '/grpc.health.v1.Health/Check': (stream, seen, answer) => {
    stream.resume();
    stream.on('end', () => { answer.send(framed(Buffer.from([8, 1]))); answer.end(0); }); // SERVING
  },
};

function once(stream, seen, answer, fine) {
  let came = false;
  stream.on('end', () => came || answer.end(INVALID_ARGUMENT, 'an item, and a quantity of 1 to 1000'));
  messages(stream, (request, octets) => {
    came = true;
    if (!request.text || !fine(request)) answer.end(INVALID_ARGUMENT, 'an item, and a quantity of 1 to 1000');
    else ask(seen[':path'], seen, request.text, octets, answer);
  }, (status, text) => answer.end(status, text));
}

const server = http2.createServer();
server.on('stream', (stream, seen) => {
  const answer = new Answer(stream);
  const timeout = /^(\d{1,8})([HMSmun])$/.exec(seen['grpc-timeout'] || '');
  if (timeout) answer.within(Number(timeout[1]) * UNITS_MS[timeout[2]]);
  const call = calls[seen[':path']];
  if (!(seen['content-type'] || '').startsWith('application/grpc')) stream.respond({ ':status': 415 }, { endStream: true });
  else if (call) call(stream, seen, answer);
  else answer.end(UNIMPLEMENTED, `no ${seen[':path']} here`);
});
server.listen(PORT, HOST, () => console.error(`counter: http://${HOST}:${server.address().port}`));
process.on('SIGTERM', () => process.exit(0));
process.on('SIGINT', () => process.exit(0));

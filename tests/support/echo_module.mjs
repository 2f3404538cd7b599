// A module in Node, independent of everything of ours: the same answers over HTTP/1.1 and over HTTP/2 with prior knowledge.
//
//     node echo_module.mjs http|h2c PORT
//
//     /echo      what was sent, then a trailer with its SHA-256; x-trailers says which trailers came
//     /size/N    N octets
//     /empty     204
//     /proto     how we are spoken to
import { createHash } from 'node:crypto'
import { createServer as http1 } from 'node:http'
import { createServer as http2 } from 'node:http2'

const [kind, port] = process.argv.slice(2)

function answer(request, response) {
  const [, what, size] = request.url.split('/')
  if (what === 'empty') {
    response.writeHead(204, { 'x-proto': request.httpVersion })
    response.end()
  } else if (what === 'size') {
    response.writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': size })
    response.end(request.method === 'HEAD' ? undefined : Buffer.alloc(Number(size), 'x'))
  } else if (what === 'echo') {
    const sum = createHash('sha256')
    response.setHeader('content-type', 'application/octet-stream')
    if (kind === 'http') response.setHeader('trailer', 'x-sum')
    response.flushHeaders() // or Node ends an empty answer with its head, and no trailers
    request.on('data', chunk => {
      sum.update(chunk)
      if (!response.write(chunk)) {
        request.pause()
        response.once('drain', () => request.resume())
      }
    })
    request.on('end', () => {
      const said = Object.entries(request.trailers).map(([name, value]) => `${name}=${value}`).join()
      response.addTrailers({ 'x-sum': sum.digest('hex'), 'x-heard': said || 'none' })
      response.end()
    })
  } else {
    response.writeHead(200, { 'content-type': 'text/plain' })
    response.end(`${request.httpVersion}\n`)
  }
}

const server = kind === 'h2c' ? http2(answer) : http1(answer)
server.listen(Number(port), '127.0.0.1')
process.on('SIGTERM', () => process.exit(0))

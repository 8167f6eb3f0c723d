import type { Server, ServerResponse } from 'node:http'
import { STATUS_CODES } from 'node:http'
import type { Duplex } from 'node:stream'
import { createAdaptorServer } from '@hono/node-server'
import type { Hono } from 'hono'
import { assert } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import { toJson } from './json.ts'
import { problemContentType, problemOf } from './problem.ts'

export interface HttpServer {
  /** Where it listens, e.g. `http://127.0.0.1:7400`. */
  readonly url: string
  /** Takes no more requests and waits for those under way; after `graceMs` they are broken off. */
  close(): Promise<void>
}

const graceMs = 5_000

/** Node allows 16 KiB. A session of 64 tokens, as many as a request carries, takes up to 52 KiB over four shards. */
export const headerBytesMax = 64 * 1024

/** As Node has it. */
const headersWithinMsDefault = 60_000

/** Serves an application. Throws `port_taken` (safe, once the address is free). A port of 0 lets the system choose. */
export async function serveHttp(options: {
  readonly app: Hono
  readonly host: string
  readonly port: number
  /** For the headers of a request, from its first byte on. */
  readonly headersWithinMs?: number
}): Promise<HttpServer> {
  const { app, host, port, headersWithinMs = headersWithinMsDefault } = options
  const serverOptions = {
    maxHeaderSize: headerBytesMax,
    headersTimeout: headersWithinMs,
    connectionsCheckingInterval: headersWithinMs / 2,
  }
  const server = createAdaptorServer({ fetch: app.fetch, serverOptions }) as Server
  const answering = new WeakMap<Duplex, ServerResponse>()
  server.on('request', ({ socket }, answer) => void answering.set(socket, answer))
  server.on('clientError', (error, socket) => {
    const answer = answering.get(socket)
    // Nothing may be written into an answer that has begun.
    if (answer?.headersSent === true && !answer.writableFinished) socket.destroy()
    else refuseUnread(error, socket)
  })
  await listen(server, host, port)
  const bound = server.address()
  assert(bound !== null && typeof bound === 'object', 'a server on a port has an address')
  const name = bound.family === 'IPv6' ? `[${bound.address}]` : bound.address
  return { url: `http://${name}:${bound.port}`, close: () => close(server) }
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => reject(listenFailure(error, host, port)))
    server.listen(port, host, () => {
      server.removeAllListeners('error')
      resolve()
    })
  })
}

function listenFailure(error: NodeJS.ErrnoException, host: string, port: number): Error {
  if (error.code === 'EADDRINUSE') {
    return new HoldfastError('port_taken', `${host}:${port} is in use`, {
      hint: 'name another address in `listen`, or stop what holds this one',
      detail: { host, port },
      cause: error,
    })
  }
  return new HoldfastError('argument_invalid', `cannot listen on ${host}:${port}: ${error.message}`, {
    hint: 'name an address of this machine in `listen`',
    cause: error,
  })
}

/** W1, of a request that is too large or broken before any route sees it: as Node answers it, with a problem. */
function refuseUnread(error: NodeJS.ErrnoException, socket: Duplex): void {
  if (!socket.writable || error.code === 'ECONNRESET') return void socket.destroy()
  const status = error.code === 'HPE_HEADER_OVERFLOW' ? 431 : error.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 408 : 400
  const why = status === 431 ? `its headers are larger than ${headerBytesMax} bytes` : 'it is broken or incomplete'
  const body = toJson(problemOf(new HoldfastError('argument_invalid', `the request cannot be read: ${why}`), status))
  const head = `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nContent-Type: ${problemContentType}\r\nConnection: close`
  socket.end(`${head}\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`)
  setTimeout(() => socket.destroy(), graceMs).unref()
}

function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    const patience = setTimeout(() => server.closeAllConnections(), graceMs)
    server.close(() => {
      clearTimeout(patience)
      resolve()
    })
    server.closeIdleConnections()
  })
}

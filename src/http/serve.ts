import type { Server } from 'node:http'
import { createAdaptorServer } from '@hono/node-server'
import type { Hono } from 'hono'
import { assert } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'

export interface HttpServer {
  /** Where it listens, e.g. `http://127.0.0.1:7400`. */
  readonly url: string
  /** Takes no more requests and waits for those under way; after `graceMs` they are broken off. */
  close(): Promise<void>
}

const graceMs = 5_000

/** Serves an application. Throws `port_taken` (safe, once the address is free). A port of 0 lets the system choose. */
export async function serveHttp(options: {
  readonly app: Hono
  readonly host: string
  readonly port: number
}): Promise<HttpServer> {
  const { app, host, port } = options
  const server = createAdaptorServer({ fetch: app.fetch }) as Server
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

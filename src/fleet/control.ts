import { chmod } from 'node:fs/promises'
import { createConnection, createServer, type Server, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { type ErrorCode, errorTable, HoldfastError } from '../base/errors.ts'
import type { Progress, ProgressEvent } from '../base/progress.ts'

/**
 * How other processes reach the supervisor: requests and answers as JSON lines over a Unix socket that only its
 * user can open. One connection carries many calls; a call may tell its progress before it answers.
 */
export interface ControlRequest {
  readonly id: number
  readonly method: string
  readonly params: unknown
}

type ControlAnswer =
  | { readonly id: number; readonly progress: ProgressEvent }
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly error: ControlError }

/** An error on its way to another process. */
export interface ControlError {
  readonly code: string
  readonly message: string
  readonly hint?: string
  readonly detail?: Readonly<Record<string, unknown>>
}

/** What the supervisor does for those who attach: `method` is a name of its operation table. */
export type Call = (method: string, params: unknown, progress: Progress) => Promise<unknown>

/** Serves `call` on a socket; the returned function stops serving. */
export async function serveControl(path: string, call: Call): Promise<() => Promise<void>> {
  const sockets = new Set<Socket>()
  const server: Server = createServer((socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    socket.on('error', () => socket.destroy())
    // A reader of lines raises its input's errors again, and there they would end the process.
    createInterface({ input: socket })
      .on('line', (line) => void answerLine(socket, line, call))
      .on('error', () => socket.destroy())
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen({ path }, resolve)
  })
  // Whoever can connect may cut over or fail over, whatever the umask of this process lets others do.
  await chmod(path, 0o600)
  return () =>
    new Promise((resolve) => {
      server.close(() => resolve())
      for (const socket of sockets) socket.destroy()
    })
}

async function answerLine(socket: Socket, line: string, call: Call): Promise<void> {
  const send = (answer: ControlAnswer) => {
    if (!socket.destroyed) socket.write(`${JSON.stringify(answer, bigintAsString)}\n`)
  }
  const request = parseRequest(line)
  if (request === undefined) {
    socket.destroy()
    return
  }
  const { id } = request
  try {
    send({ id, result: (await call(request.method, request.params, (progress) => send({ id, progress }))) ?? null })
  } catch (error) {
    send({ id, error: toControlError(error) })
  }
}

/** A line that is no request must not end the supervisor. */
function parseRequest(line: string): ControlRequest | undefined {
  try {
    const value: unknown = JSON.parse(line)
    const isRequest = typeof value === 'object' && value !== null && 'id' in value && 'method' in value
    return isRequest ? (value as ControlRequest) : undefined
  } catch {
    return undefined
  }
}

export function toControlError(error: unknown): ControlError {
  if (!(error instanceof HoldfastError)) {
    return { code: 'internal', message: error instanceof Error ? (error.stack ?? error.message) : String(error) }
  }
  const { code, message, hint, detail } = error
  return { code, message, detail, ...(hint === undefined ? {} : { hint }) }
}

function bigintAsString(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? value.toString() : value
}

interface PendingCall {
  readonly progress: Progress
  readonly resolve: (value: unknown) => void
  readonly reject: (error: Error) => void
}

/** The calling end. A supervisor that goes away fails what is pending with `fleet_not_running`. */
export class ControlClient {
  readonly #socket: Socket
  readonly #pending = new Map<number, PendingCall>()
  #next = 1
  #ended: HoldfastError | undefined

  private constructor(socket: Socket) {
    this.#socket = socket
    createInterface({ input: socket })
      .on('line', (line) => this.#receive(line))
      .on('error', () => socket.destroy())
    socket.on('error', () => socket.destroy())
    socket.on('close', () => this.#end())
  }

  /** Throws `fleet_not_running` when nobody serves the socket. */
  static connect(path: string): Promise<ControlClient> {
    return new Promise((resolve, reject) => {
      const socket = createConnection({ path })
      socket.once('error', (cause) => reject(notRunning(cause)))
      socket.once('connect', () => {
        socket.removeAllListeners('error')
        resolve(new ControlClient(socket))
      })
    })
  }

  readonly call: Call = (method, params, progress) => {
    if (this.#ended !== undefined) return Promise.reject(this.#ended)
    const id = this.#next++
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { progress, resolve, reject })
      this.#socket.write(`${JSON.stringify({ id, method, params }, bigintAsString)}\n`)
    })
  }

  close(): void {
    this.#socket.destroy()
  }

  /** Resolves when the supervisor went away or `close` was called. */
  closed(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#socket.closed) resolve()
      else this.#socket.once('close', () => resolve())
    })
  }

  /** The last line of a supervisor that was killed may be half an answer. */
  #receive(line: string): void {
    let answer: ControlAnswer
    try {
      answer = JSON.parse(line) as ControlAnswer
    } catch {
      this.#socket.destroy()
      return
    }
    this.#take(answer)
  }

  #take(answer: ControlAnswer): void {
    const pending = this.#pending.get(answer.id)
    if (pending === undefined) return
    if ('progress' in answer) {
      pending.progress(answer.progress)
      return
    }
    this.#pending.delete(answer.id)
    if ('error' in answer) pending.reject(fromControlError(answer.error))
    else pending.resolve(answer.result)
  }

  #end(): void {
    this.#ended = notRunning()
    for (const { reject } of this.#pending.values()) reject(this.#ended)
    this.#pending.clear()
  }
}

export function fromControlError({ code, message, hint, detail }: ControlError): HoldfastError {
  const known = Object.hasOwn(errorTable, code) ? (code as ErrorCode) : 'internal'
  return new HoldfastError(known, message, {
    ...(hint === undefined ? {} : { hint }),
    ...(detail === undefined ? {} : { detail }),
  })
}

function notRunning(cause?: unknown): HoldfastError {
  return new HoldfastError('fleet_not_running', 'no supervisor answers for the data directory', {
    hint: 'start it with: holdfast up',
    cause,
  })
}

import pg from 'pg'
import { deferred, type Deferred } from '../base/deferred.ts'
import type { DriverClient } from './driver.ts'

/**
 * Connections to one server, for one at a time each.
 *
 * A connection to a server far away takes several round trips to make: more than a transaction there takes. So nobody waits
 * for the one that is made on his account:
 *
 *   N1  Who finds none idle gets the first that is there, be it made or given back, in the order in which they came.
 *   N2  Who takes the last idle one has another made. A server that one is in use of has another ready, up to `max`.
 *   N3  A connection that could not be made fails who has waited longest, unless another is being made for him.
 *   N4  Who was refused knows whether it was for want of a server or for those in front of him: a queue of our own says
 *       nothing of the server.
 *   N5  Statements that one connection has prepared, and that do not fit any more, fit on none that was made before.
 */
export interface PoolOptions {
  readonly client: pg.ClientConfig
  readonly max: number
  /** One that is idle for this long is closed. */
  readonly idleMs: number
  /** Who waits for longer is refused, unless he says how long he waits. */
  readonly waitMs: number
}

/** N4: the connections went to others, or all are in use. */
export class PoolBusy extends Error {
  constructor(waitedMs: number, { lent, waiting, max }: { lent: number; waiting: number; max: number }) {
    super(
      `no connection was free within ${Math.round(waitedMs)} ms: ${lent} of ${max} are in use, ${waiting} more wait`,
    )
    this.name = 'PoolBusy'
  }
}

interface Idle {
  readonly client: DriverClient
  readonly timer: NodeJS.Timeout
}

interface Waiting extends Deferred<DriverClient> {
  timer: NodeJS.Timeout
  /** How many connections had been lent when he came. */
  readonly lentBefore: number
}

export class Pool {
  readonly #options: PoolOptions
  /** The last is taken first: what is too many idles for long enough, and a new one stands behind those that know statements. */
  readonly #idle: Idle[] = []
  readonly #making = new Set<DriverClient>()
  readonly #lent = new Set<DriverClient>()
  /** Lent for the last time. */
  readonly #outdated = new WeakSet<DriverClient>()
  readonly #waiting: Waiting[] = []
  #lentEver = 0
  #ended = false

  constructor(options: PoolOptions) {
    this.#options = options
  }

  /**
   * Rejects when none could be had: with the driver's error, `PoolBusy`, or an error that says what was waited for.
   *   waitMs   for one that is being made
   *   queueMs  for one that somebody uses
   */
  async take(waitMs = this.#options.waitMs, queueMs = waitMs): Promise<DriverClient> {
    if (this.#ended) throw new Error('the pool is closed')
    const last = this.#idle.pop()
    if (last !== undefined) clearTimeout(last.timer)
    const taken = last === undefined ? this.#wait(waitMs, queueMs) : this.#lend(last.client)
    this.#make()
    return taken
  }

  /** Whether who comes now stands behind others for a connection that is in use. */
  get isBusy(): boolean {
    return this.#idle.length === 0 && this.#count >= this.#options.max && this.#waiting.length >= this.#making.size
  }

  /** Of one that was taken. One that is not usable is closed. */
  giveBack(client: DriverClient, isUsable: boolean): void {
    if (!this.#lent.delete(client)) return
    if (!isUsable || this.#ended || this.#outdated.has(client)) void client.end().catch(ignore)
    else if (!this.#serve(client)) this.#idle.push(this.#idling(client))
    this.#make()
  }

  /** N5. Nobody gets one of those that there are any more; not again when another of them tells the same. */
  renew(by: DriverClient): void {
    if (this.#outdated.has(by)) return
    for (const client of this.#lent) this.#outdated.add(client)
    this.#closeIdle()
    this.#make()
  }

  /** Closes what is idle, and what is lent when it is given back. Nobody gets one any more. */
  end(): void {
    this.#ended = true
    for (const { reject, timer } of this.#waiting.splice(0)) {
      clearTimeout(timer)
      reject(new Error('the pool is closed'))
    }
    this.#closeIdle()
    for (const client of this.#making) client.connection.stream.destroy()
  }

  #closeIdle(): void {
    for (const { client, timer } of this.#idle.splice(0)) {
      clearTimeout(timer)
      void client.end().catch(ignore)
    }
  }

  get #count(): number {
    return this.#idle.length + this.#making.size + this.#lent.size
  }

  #wait(waitMs: number, queueMs: number): Promise<DriverClient> {
    const [soonMs, lateMs] = [Math.min(waitMs, queueMs), Math.max(waitMs, queueMs)]
    const timer = setTimeout(() => {
      const isOver = queueMs < waitMs ? this.#isBehind(waiting) : !this.#isOurs(waiting)
      if (isOver || soonMs === lateMs) this.#refuse(waiting, soonMs)
      else waiting.timer = setTimeout(() => this.#refuse(waiting, lateMs), lateMs - soonMs)
    }, soonMs)
    const waiting: Waiting = { ...deferred<DriverClient>(), timer, lentBefore: this.#lentEver }
    this.#waiting.push(waiting)
    return waiting.promise
  }

  /** N4: whether he waits for those in front of him, and not for the server to let him in. */
  #isOurs(waiting: Waiting): boolean {
    return this.#lentEver > waiting.lentBefore || this.#isBehind(waiting)
  }

  /** None is being made for him. */
  #isBehind(waiting: Waiting): boolean {
    return this.#waiting.indexOf(waiting) >= this.#making.size
  }

  #refuse(waiting: Waiting, waitedMs: number): void {
    const isOurs = this.#isOurs(waiting)
    this.#waiting.splice(this.#waiting.indexOf(waiting), 1)
    const { max } = this.#options
    waiting.reject(
      isOurs
        ? new PoolBusy(waitedMs, { lent: this.#lent.size, waiting: this.#waiting.length, max })
        : new Error(`no connection was made within ${Math.round(waitedMs)} ms`),
    )
  }

  #lend(client: DriverClient): DriverClient {
    this.#lentEver += 1
    this.#lent.add(client)
    return client
  }

  /** N1. False when nobody waits. */
  #serve(client: DriverClient): boolean {
    const next = this.#waiting.shift()
    if (next === undefined) return false
    clearTimeout(next.timer)
    next.resolve(this.#lend(client))
    return true
  }

  #idling(client: DriverClient): Idle {
    return { client, timer: setTimeout(() => this.#discard(client), this.#options.idleMs) }
  }

  #discard(client: DriverClient): void {
    const at = this.#idle.findIndex((idle) => idle.client === client)
    if (at === -1) return
    clearTimeout(this.#idle.splice(at, 1)[0]?.timer)
    void client.end().catch(ignore)
  }

  /** As many as are waited for, and one ahead (N2). */
  #make(): void {
    const isAnyAhead = this.#idle.length > 0 || this.#lent.size === 0
    this.#makeUpTo(this.#waiting.length + (isAnyAhead ? 0 : 1))
  }

  #makeUpTo(wanted: number): void {
    while (!this.#ended && this.#making.size < wanted && this.#count < this.#options.max) void this.#makeOne()
  }

  async #makeOne(): Promise<void> {
    const client = new pg.Client(this.#options.client) as DriverClient
    // For as long as it lives: one that breaks while it idles is dropped, one that is closed still hears of an end by the server.
    client.on('error', () => this.#discard(client))
    this.#making.add(client)
    try {
      await client.connect()
    } catch (error) {
      this.#making.delete(client)
      const refused = this.#making.size < this.#waiting.length ? this.#waiting.shift() : undefined
      clearTimeout(refused?.timer)
      refused?.reject(error)
      // Nobody waits for one that is made ahead: the next who takes one has it tried again.
      return this.#makeUpTo(this.#waiting.length)
    }
    this.#making.delete(client)
    if (this.#ended) void client.end().catch(ignore)
    else if (!this.#serve(client)) this.#idle.unshift(this.#idling(client))
    this.#make()
  }
}

function ignore(): void {}

import { rm } from 'node:fs/promises'
import { createConnection, createServer, type Server, type Socket } from 'node:net'
import { systemClock, type Clock } from '../base/clock.ts'
import type { RegionName } from '../directory/topology.ts'
import { DelayLine } from './delay-line.ts'
import type { ConnectionMeter, LinkCounters } from './link-meter.ts'
import { LinkMeter } from './link-meter.ts'
import { applicationNameOf } from './startup-message.ts'

/**
 * A link stands for the network between two regions of an embedded fleet: a Unix socket that leads to a node's
 * own, with the delay of the distance, a count of what crossed, and a way to cut it.
 *
 *   K1  What enters a direction comes out whole, in order, and not before the delay. Opening a connection, closing
 *       one half of it and breaking it off travel in that order too.
 *   K2  A direction that is cut delivers nothing and closes nothing, as a network does that drops its packets. What
 *       entered stays in it, and a new connection hangs. Healed, everything comes out.
 *   K3  A receiver that does not read stops the sender after a bounded number of bytes.
 *   K4  Counts say what crossed: see `link-meter.ts`.
 *
 * Owns: the listening socket and the connections through it. Does not own: which links there are (`link-network.ts`).
 */

export interface LinkOptions {
  readonly fromRegion: RegionName
  readonly toRegion: RegionName
  /** For messages. */
  readonly toNode: string
  readonly kind: 'client' | 'replication'
  /** A Unix socket; one that is left over from a crash is replaced. */
  readonly listenPath: string
  readonly targetPath: string
  /** One way: half of a round trip. */
  readonly delayMs: number
  readonly clock?: Clock
}

/** `to` leads from the client to the node, `from` back. */
export type LinkDirection = 'both' | 'to' | 'from'

/** Starts to listen. Rejects with the system's error when the path cannot be used. */
export async function openLink(options: LinkOptions): Promise<Link> {
  await rm(options.listenPath, { force: true })
  const link = new Link(options)
  await link.listen()
  return link
}

export class Link {
  readonly fromRegion: RegionName
  readonly toRegion: RegionName
  readonly toNode: string
  readonly kind: 'client' | 'replication'
  readonly #server: Server
  readonly #listenPath: string
  readonly #meter = new LinkMeter()
  readonly #crossings = new Set<Crossing>()
  #cut: { readonly to: boolean; readonly from: boolean } = { to: false, from: false }

  /** Use `openLink`. */
  constructor(options: LinkOptions) {
    const { fromRegion, toRegion, toNode, kind, listenPath, targetPath, delayMs, clock = systemClock } = options
    this.fromRegion = fromRegion
    this.toRegion = toRegion
    this.toNode = toNode
    this.kind = kind
    this.#listenPath = listenPath
    this.#server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (client) => {
      const crossing = new Crossing({
        client,
        targetPath,
        delayMs,
        clock,
        cut: this.#cut,
        meter: this.#meter.connect(),
        onGone: () => this.#crossings.delete(crossing),
      })
      this.#crossings.add(crossing)
      crossing.open()
    })
  }

  async listen(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject)
      this.#server.listen(this.#listenPath, () => {
        this.#server.off('error', reject)
        resolve()
      })
    })
  }

  counters(): LinkCounters {
    return this.#meter.counters()
  }

  /** By the `application_name` of the connections. */
  countersByApplication(): ReadonlyMap<string, LinkCounters> {
    return this.#meter.byApplication()
  }

  resetCounters(): void {
    this.#meter.reset()
  }

  /** Lets nothing through in that direction until `heal`, without closing anything (K2). */
  cut(direction: LinkDirection): void {
    const { to, from } = this.#cut
    this.#setCut({ to: to || direction !== 'from', from: from || direction !== 'to' })
  }

  heal(): void {
    this.#setCut({ to: false, from: false })
  }

  /** Breaks off every connection at once, on both sides; new ones are taken. */
  sever(): void {
    for (const crossing of this.#crossings) crossing.destroy()
  }

  /** Stops to listen and breaks off every connection. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()))
    this.sever()
    await closed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  #setCut(cut: { readonly to: boolean; readonly from: boolean }): void {
    this.#cut = cut
    for (const crossing of this.#crossings) crossing.setCut(cut)
  }
}

/**
 * How many bytes may be under way in one direction of one connection before its sender has to wait: what a fast
 * sender puts on a long link in one delay (100 MB/s for 80 ms).
 */
const underWayBytesMax = 8 * 1024 * 1024

type Item =
  | { readonly kind: 'open' }
  | { readonly kind: 'bytes'; readonly bytes: Buffer; readonly level: number }
  /** The sender closed its half. */
  | { readonly kind: 'end' }
  /** The sender is gone without having closed its half. */
  | { readonly kind: 'break' }

interface CrossingOptions {
  readonly client: Socket
  readonly targetPath: string
  readonly delayMs: number
  readonly clock: Clock
  readonly cut: { readonly to: boolean; readonly from: boolean }
  readonly meter: ConnectionMeter
  readonly onGone: () => void
}

/** One connection through a link: two sockets and a line each way. */
class Crossing {
  readonly #options: CrossingOptions
  readonly #client: Socket
  readonly #meter: ConnectionMeter
  readonly #to: DelayLine<Item>
  readonly #from: DelayLine<Item>
  #node: Socket | undefined
  #toBytes = 0
  #fromBytes = 0

  constructor(options: CrossingOptions) {
    const { delayMs, clock, cut } = options
    this.#options = options
    this.#client = options.client
    this.#meter = options.meter
    this.#to = new DelayLine({ delayMs, clock, held: cut.to, take: (item) => this.#takeAtNode(item) })
    this.#from = new DelayLine({ delayMs, clock, held: cut.from, take: (item) => this.#takeAtClient(item) })
  }

  open(): void {
    const client = this.#client
    this.#to.put({ kind: 'open' })
    client.once('data', (bytes) => this.#meter.opened(applicationNameOf(bytes)))
    client.on('data', (bytes) => {
      this.#toBytes += bytes.length
      if (this.#toBytes >= underWayBytesMax) client.pause()
      this.#to.put({ kind: 'bytes', bytes, level: this.#meter.clientSent(bytes.length) })
    })
    client.on('end', () => this.#to.put({ kind: 'end' }))
    client.on('drain', () => this.#from.resume())
    client.on('error', ignoreBrokenSocket)
    client.on('close', (failed) => {
      this.#from.close()
      if (failed || !client.readableEnded) this.#to.put({ kind: 'break' })
      this.#forgetWhenGone()
    })
    client.resume()
  }

  setCut(cut: { readonly to: boolean; readonly from: boolean }): void {
    if (cut.to) this.#to.hold()
    else this.#to.release()
    if (cut.from) this.#from.hold()
    else this.#from.release()
  }

  destroy(): void {
    this.#to.close()
    this.#from.close()
    this.#client.destroy()
    this.#node?.destroy()
    this.#options.onGone()
  }

  #connectNode(): Socket {
    const node = createConnection({ path: this.#options.targetPath, allowHalfOpen: true })
    this.#node = node
    node.on('data', (bytes) => {
      this.#fromBytes += bytes.length
      if (this.#fromBytes >= underWayBytesMax) node.pause()
      this.#from.put({ kind: 'bytes', bytes, level: this.#meter.serverSent() })
    })
    node.on('end', () => this.#from.put({ kind: 'end' }))
    node.on('drain', () => this.#to.resume())
    node.on('error', ignoreBrokenSocket)
    node.on('close', (failed) => {
      this.#to.close()
      if (failed || !node.readableEnded) this.#from.put({ kind: 'break' })
      this.#forgetWhenGone()
    })
    return node
  }

  #takeAtNode(item: Item): 'more' | 'wait' {
    const node = this.#node ?? this.#connectNode()
    if (item.kind === 'bytes') {
      this.#toBytes -= item.bytes.length
      if (this.#toBytes < underWayBytesMax / 2) this.#client.resume()
      this.#meter.serverReceived(item.level)
    }
    return deliver(item, node)
  }

  #takeAtClient(item: Item): 'more' | 'wait' {
    if (item.kind === 'bytes') {
      this.#fromBytes -= item.bytes.length
      if (this.#fromBytes < underWayBytesMax / 2) this.#node?.resume()
      this.#meter.clientReceived(item.level, item.bytes.length)
    }
    return deliver(item, this.#client)
  }

  #forgetWhenGone(): void {
    if (this.#client.destroyed && this.#node?.destroyed === true) this.#options.onGone()
  }
}

function deliver(item: Item, receiver: Socket): 'more' | 'wait' {
  switch (item.kind) {
    case 'open':
      return 'more'
    case 'bytes':
      return receiver.write(item.bytes) ? 'more' : 'wait'
    case 'end':
      receiver.end()
      return 'more'
    case 'break':
      receiver.destroy()
      return 'more'
  }
}

/** A socket that fails closes next, and that is when the other side is told. */
function ignoreBrokenSocket(): void {}

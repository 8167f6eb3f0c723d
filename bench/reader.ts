import { performance } from 'node:perf_hooks'
import { type Fleet, type FleetConfigInput, openFleet, type ReadLevel } from 'holdfast'
import { obeyParent } from './processes.ts'
import { keepWriting } from './traffic.ts'
import { pause } from './work.ts'

/** A gateway in a process of its own, in any region, that reads at the bidding of a bench. */

export interface ReaderTask {
  readonly config: FleetConfigInput
  readonly region: string
}

export interface AskedRead {
  readonly tenant: string
  readonly session: string
  readonly level: ReadLevel
  readonly domain: string
  readonly text: string
  readonly waitMs: number
}

export type ReaderOrder =
  /** Local traffic of a tenant, until it is told to rest. */
  | { readonly do: 'write'; readonly tenant: string }
  | { readonly do: 'rest' }
  | { readonly do: 'read'; readonly read: AskedRead }
  /** As many of the same read, one after the other so that each is waiting when the last one comes. */
  | { readonly do: 'gather'; readonly read: AskedRead; readonly readers: number }
  /** How much processor time this process takes meanwhile, and how many of those that were gathered wait all the while. */
  | { readonly do: 'sample'; readonly forMs: number }
  /** Until all that were gathered have ended, those that were refused too. */
  | { readonly do: 'await' }

export interface ReadReport {
  readonly node: string
  readonly role: 'primary' | 'follower'
  readonly waitedMs: number
}

export interface SampleReport {
  readonly cores: number
  readonly waiting: number
}

/** Of those that were gathered. */
export interface GatheredReport {
  readonly answered: number
  readonly refused: number
}

const gatherAtOnce = 5
const gatherEveryMs = 10

class ReadingGateway {
  readonly #fleet: Fleet
  #isOver = false
  #traffic: Promise<void> = Promise.resolve()
  readonly #gathered: Promise<void>[] = []
  #answered = 0
  #refused = 0

  constructor(fleet: Fleet) {
    this.#fleet = fleet
  }

  obey(order: ReaderOrder): Promise<ReadReport | SampleReport | GatheredReport | void> {
    switch (order.do) {
      case 'write':
        this.#isOver = false
        this.#traffic = keepWriting(this.#fleet, order.tenant, () => this.#isOver)
        // Told to who asks it to rest.
        this.#traffic.catch(() => undefined)
        return Promise.resolve()
      case 'rest':
        this.#isOver = true
        return this.#traffic
      case 'read':
        return this.#read(order.read)
      case 'gather':
        return this.#gather(order.read, order.readers)
      case 'sample':
        return this.#sample(order.forMs)
      case 'await':
        return Promise.all(this.#gathered).then(() => ({ answered: this.#answered, refused: this.#refused }))
    }
  }

  async #read({ domain, text, tenant, ...asked }: AskedRead): Promise<ReadReport> {
    const { served } = await this.#fleet.read({ tenant, ...asked }, (reader) => reader.query(domain, text, [tenant]))
    const [by] = served
    if (by === undefined) throw new Error('a read that nobody served')
    return { node: by.node, role: by.role, waitedMs: by.waitedMs }
  }

  async #gather(read: AskedRead, readers: number): Promise<void> {
    const begin = () =>
      this.#read(read).then(
        () => void (this.#answered += 1),
        () => void (this.#refused += 1),
      )
    while (this.#gathered.length < readers) {
      for (let n = 0; n < gatherAtOnce; n++) this.#gathered.push(begin())
      await pause(gatherEveryMs)
    }
  }

  async #sample(forMs: number): Promise<SampleReport> {
    const [started, before] = [performance.now(), process.cpuUsage()]
    await pause(forMs)
    const { user, system } = process.cpuUsage(before)
    const waiting = this.#gathered.length - this.#answered - this.#refused
    return { cores: (user + system) / 1_000 / (performance.now() - started), waiting }
  }
}

const { config, region } = JSON.parse(process.argv[2] ?? '') as ReaderTask
const fleet = await openFleet({ config, region })
const gateway = new ReadingGateway(fleet)
obeyParent(
  (given: ReaderOrder) => gateway.obey(given),
  () => fleet.close(),
)

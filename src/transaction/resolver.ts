import { setMaxListeners } from 'node:events'
import type { MetricName } from '../base/metrics.ts'
import type { FleetNode, ShardName } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import { ConnectionLost, ServerError } from '../postgres/failure.ts'
import { elect } from '../postgres/election.ts'
import type { CollectionOptions } from './collector.ts'
import type { OnUncollected } from './collector-term.ts'
import { collectWhileElected } from './collector-term.ts'
import type { TransactionEnvironment } from './environment.ts'
import type { LaneLimits, Resolved } from './home-lanes.ts'
import type { AlarmLimits } from './in-doubt-alarm.ts'
import type { InDoubtBranch } from './in-doubt.ts'
import { ResolverTerm } from './resolver-term.ts'

/**
 * Settles what coordinators left behind: one resolver a shard, for the branches that are prepared there.
 *
 * Every gateway runs one for every shard; a session advisory lock on the shard's primary elects who works. The lock
 * only saves work: any number of resolvers, coordinators and readers may settle one branch at once, since the record at
 * home decides and settling is repeatable (S1 to S3).
 *
 * A branch survives its participant's failover as it was prepared: the new primary lists it, and the resolver that is
 * elected there goes on (HZ-X7). A home that does not answer leaves its branches in doubt, for as long as it takes; it is
 * asked more and more rarely, and the branches of other homes do not wait behind it.
 */
export interface ResolverOptions {
  readonly environment: TransactionEnvironment
  readonly limits?: ResolverLimits
  /** Called for a branch that only a person can settle, and for one that is in doubt for long; once an interval. */
  readonly onStuck?: (branch: InDoubtBranch, why: string) => void
  /** Who is elected on a shard collects the records of which it is the home as well; nobody does without it. */
  readonly collection?: CollectionOptions & { readonly onUncollected: OnUncollected }
}

export interface ResolverLimits extends LaneLimits {
  readonly scanEveryMs: number
  /** A branch younger than this is left to its coordinator, even when it is decided. */
  readonly settleAfterMs: number
  readonly electionEveryMs: number
  /** One that is elected and was stopped keeps its connection: the server ends it, and the lock with it, after this. */
  readonly silentForMsMax: number
  readonly alarm: AlarmLimits
}

export const resolverLimitsDefault: ResolverLimits = {
  scanEveryMs: 250,
  settleAfterMs: 250,
  abortAfterMs: 2_000,
  electionEveryMs: 1_000,
  silentForMsMax: 10_000,
  resolvedAtOnceMax: 4,
  queuedMax: 256,
  backoff: { firstMs: 500, mostMs: 30_000 },
  alarm: { afterMs: 30_000, everyMs: 60_000 },
}

/** What only who is elected on a shard sees. */
const electedGauges: readonly MetricName[] = [
  'in_doubt_oldest_age_ms',
  'resolver_queue_depth',
  'resolver_silent_homes',
  'collection_backlog',
]

const connectWithinMs = 5_000

export class Resolver {
  readonly #environment: TransactionEnvironment
  readonly #limits: ResolverLimits
  readonly #onStuck: (branch: InDoubtBranch, why: string) => void
  readonly #collection: ResolverOptions['collection']

  constructor({ environment, limits = resolverLimitsDefault, onStuck = () => {}, collection }: ResolverOptions) {
    this.#collection = collection
    this.#environment = environment
    this.#limits = limits
    this.#onStuck = onStuck
  }

  /**
   * Runs for all shards until the signal is aborted; lost servers are waited for. A defect that one of them meets ends all, and
   * rejects when they have ended: whoever begins anew finds none of them left.
   */
  async run(signal: AbortSignal): Promise<void> {
    const defect = new AbortController()
    const until = AbortSignal.any([signal, defect.signal])
    // As many listen to its end as there are shards.
    setMaxListeners(0, until)
    const shards = [...this.#environment.topology.current().shards.keys()]
    const running = shards.map((shard) =>
      this.#runFor(shard, until).catch((error: unknown) => {
        defect.abort()
        throw error
      }),
    )
    for (const end of await Promise.allSettled(running)) if (end.status === 'rejected') throw end.reason
  }

  /**
   * What an operator's `resolve` asks for: a pass, and where something is left to its coordinator one more, once it was seen
   * for long enough; of what both of them saw, the second one tells. The age of a branch is by its server's wall, and one that
   * was set back makes it young for as long. Throws when the shard is silent.
   */
  async resolveAll(shard: ShardName): Promise<readonly Resolved[]> {
    const term = this.#term(shard)
    const first = await term.scan()
    const ended = await first.ended
    const isLeft = ({ resolution }: Resolved) => resolution.kind === 'left' && resolution.failed === null
    if (first.young.length === 0 && !ended.some(isLeft)) return ended
    await this.#environment.clock.sleep(Math.max(this.#limits.abortAfterMs, this.#limits.settleAfterMs))
    const again = await (await term.scan()).ended
    const seenAgain = new Set(again.map(({ branch }) => branch.gid))
    return [...ended.filter((one) => !isLeft(one) && !seenAgain.has(one.branch.gid)), ...again]
  }

  /** One pass over one shard, whoever is elected. Throws when it is silent. */
  async resolveOnce(shard: ShardName): Promise<readonly Resolved[]> {
    const { ended } = await this.#term(shard).scan()
    return ended
  }

  async #runFor(shard: ShardName, signal: AbortSignal): Promise<void> {
    const { clock, topology } = this.#environment
    while (!signal.aborted) {
      try {
        await this.#serve(shard, signal)
      } catch (error) {
        if (signal.aborted) return
        if (!(error instanceof ConnectionLost || error instanceof ServerError)) throw error
        await topology.refresh().catch(() => undefined)
      }
      await clock.sleep(this.#limits.electionEveryMs, signal).catch(() => undefined)
    }
  }

  /** One candidacy, and the term that follows when it is elected: returns when the primary is another node by now. */
  async #serve(shard: ShardName, signal: AbortSignal): Promise<void> {
    const { targetOf, clock, limits, metrics } = this.#environment
    const primary = this.#primary(shard)
    if (primary === undefined) return
    const connection = await Connection.connect(targetOf(primary), connectWithinMs)
    const isPrimary = () => this.#primary(shard)?.id === primary.id
    const term = this.#term(shard)
    const ended = new AbortController()
    // Of what nobody waits for; it ends the term, and a rejection that nobody handled would end the process.
    let defect: { readonly error: unknown } | undefined
    const note = (error: unknown) => {
      defect ??= { error }
    }
    let collecting: Promise<void> = Promise.resolve()
    try {
      const { electionEveryMs: everyMs, silentForMsMax } = this.#limits
      const answerWithinMs = limits.serviceWithinMs
      const candidacy = { lock: 'holdfast.resolver', everyMs, silentForMsMax, isPrimary, clock, answerWithinMs }
      if (!(await elect(connection, candidacy, signal))) return
      collecting = this.#collect(shard, AbortSignal.any([signal, ended.signal])).catch(note)
      while (!signal.aborted && isPrimary()) {
        const scan = await term.scan()
        scan.ended.catch(note)
        await clock.sleep(this.#limits.scanEveryMs, signal)
        // The lock lives as long as the connection does.
        await connection.query('select 1', [], limits.serviceWithinMs)
        if (defect !== undefined) throw defect.error
      }
    } finally {
      connection.release()
      ended.abort()
      await Promise.all([term.end(), collecting])
      for (const name of electedGauges) metrics.forget(name, { shard })
    }
  }

  async #collect(home: ShardName, elected: AbortSignal): Promise<void> {
    const collection = this.#collection
    if (collection === undefined) return
    await collectWhileElected(this.#environment, home, collection, collection.onUncollected, elected)
  }

  #term(shard: ShardName): ResolverTerm {
    return new ResolverTerm(this.#environment, this.#limits, shard, this.#onStuck)
  }

  #primary(shard: ShardName): FleetNode | undefined {
    return this.#environment.topology.current().shards.get(shard)?.primary
  }
}

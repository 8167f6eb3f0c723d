import { HoldfastError, isHoldfastError } from '../base/errors.ts'
import type { ConnectionTarget, Row, Statement } from '../postgres/statement.ts'
import { accepted } from '../postgres/statement.ts'
import type { ConnectionPools } from '../postgres/pools.ts'
import type { DirectorySource, DomainEntry, Placement, PlacementRow } from './directory.ts'
import { Directory, placementFromRow } from './directory.ts'
import type { FleetNode, ShardName, ShardTopology, TopologySource } from './topology.ts'

/**
 * The directory as the shards hold it. Every shard has all rows, so one answer is enough to route by; what comes from
 * several is merged, and the higher version of a placement stands (P4).
 */
export interface DirectoryStoreOptions {
  readonly domains: Iterable<DomainEntry>
  readonly topology: TopologySource
  readonly pools: ConnectionPools
  readonly targetOf: (node: FleetNode) => ConnectionTarget
}

const answerWithinMs = 5_000

const selectPlacements: Statement = {
  text: 'select tenant, domain, shard, version, policy, policy_version, service from holdfast.placement',
}

/** The placement rows of one server. Throws `ConnectionLost` or `ServerError`. */
export async function loadPlacements(pools: ConnectionPools, target: ConnectionTarget): Promise<Placement[]> {
  const outcomes = await pools.flight(target, [selectPlacements], answerWithinMs)
  return outcomes.flatMap((outcome) => accepted(outcome).rows.map((row) => placementFromRow(row as PlacementRow & Row)))
}

export class DirectoryStore implements DirectorySource {
  readonly #options: DirectoryStoreOptions
  #current: Directory
  /** Why there are no rows yet: an empty directory would deny that its tenants are there. */
  #unanswered: HoldfastError | undefined
  #isAsking = false

  private constructor(options: DirectoryStoreOptions) {
    this.#options = options
    this.#current = Directory.of(options.domains, [])
  }

  /** Where no node answers yet, whoever asks is told so, and has them asked once more. */
  static async open(options: DirectoryStoreOptions): Promise<DirectoryStore> {
    const store = new DirectoryStore(options)
    await store.refresh().catch((error: unknown) => {
      if (!isHoldfastError(error, 'node_unavailable')) throw error
      store.#unanswered = error
    })
    return store
  }

  /** Throws `node_unavailable` while no node has answered since this process began. */
  current(): Directory {
    if (this.#unanswered === undefined) return this.#current
    if (!this.#isAsking) void this.#askAgain()
    throw this.#unanswered
  }

  /** Asks every shard; throws `node_unavailable` when no node of any answers. */
  async refresh(): Promise<Directory> {
    const shards = [...this.#options.topology.current().shards.values()]
    const answers = await Promise.allSettled(shards.map((shard) => this.#ask(shard)))
    const loaded = answers.filter((answer) => answer.status === 'fulfilled')
    if (loaded.length === 0)
      throw noAnswer(
        shards.map(({ name }) => name),
        answers,
      )
    this.#current = this.#current.advance(loaded.flatMap(({ value }) => value))
    this.#unanswered = undefined
    return this.#current
  }

  async #askAgain(): Promise<void> {
    this.#isAsking = true
    await this.refresh().catch(() => undefined)
    this.#isAsking = false
  }

  /** The rows of a shard: its primary's, on the bad day a follower's, which may be older and are checked at the data. */
  async #ask({ primary, followers }: ShardTopology): Promise<Placement[]> {
    const { pools, targetOf } = this.#options
    try {
      return await loadPlacements(pools, targetOf(primary))
    } catch (cause) {
      for (const follower of followers) {
        const rows = await loadPlacements(pools, targetOf(follower)).catch(() => undefined)
        if (rows !== undefined) return rows
      }
      throw cause
    }
  }
}

function noAnswer(shards: readonly ShardName[], answers: readonly PromiseSettledResult<unknown>[]): HoldfastError {
  const causes = answers.flatMap((answer) => (answer.status === 'rejected' ? [answer.reason as unknown] : []))
  return new HoldfastError('node_unavailable', `no node of ${shards.join(', ')} gives its directory`, {
    hint: 'start the fleet, or look at its status',
    cause: causes[0],
  })
}

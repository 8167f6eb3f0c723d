import { HoldfastError } from '../base/errors.ts'
import type { Placement } from '../directory/directory.ts'
import { decidePlacement, describeRefusal } from '../directory/policy.ts'
import type { ShardName } from '../directory/topology.ts'
import type { Connection } from '../postgres/connection.ts'
import { administer } from './administer.ts'
import type { FleetConfig } from './config.ts'
import { jurisdictionsOf } from './config.ts'
import { installDomains, placementsOf, readPlacements, writeClockOffset, writePlacements } from './founding.ts'
import type { ShardServers } from './shard-servers.ts'
import { nodeOf } from './shard-servers.ts'
import type { NodeDocument, ShardDocument } from './topology-store.ts'

const answerWithinMs = 5_000

/**
 * What a start does on every shard behind its barrier, before anybody is let in: its relations are seen to survive a crash, and
 * it takes up what the configuration gained. A shard that the start left out has it done whenever it opens, and by whom.
 */
export class TakingUp {
  readonly #config: FleetConfig
  readonly #shardServers: ShardServers
  readonly #due = new Set<ShardName>()

  constructor(config: FleetConfig, shardServers: ShardServers) {
    this.#config = config
    this.#shardServers = shardServers
  }

  expect(names: readonly ShardName[]): void {
    for (const name of names) this.#due.add(name)
  }

  /** What the shard is to be the authority for beside the rows of one of its nodes, which are the truth where they have it. */
  awaited(name: ShardName, known: readonly Placement[]): Placement[] {
    if (!this.#due.has(name)) return []
    const hasRow = (wanted: Placement) =>
      known.some(({ tenant, domain }) => tenant === wanted.tenant && domain === wanted.domain)
    return placementsOf(this.#config).filter((wanted) => wanted.shard === name && !hasRow(wanted))
  }

  /**
   * Nothing where it was done since the fleet was started: what changed in files since then is for the next start. Throws
   * `residency_denied` where the primary is by now where a policy that the configuration gained forbids it (L1), before it is changed.
   */
  async run(name: ShardName, shard: ShardDocument): Promise<void> {
    if (!this.#due.has(name)) return
    const primary = nodeOf(shard, shard.primary)
    await administer(this.#shardServers.adminTarget(primary), async (admin) => {
      await requirePermanent(admin, primary.id)
      this.#requireLegal(name, primary, await readPlacements(admin, answerWithinMs))
      // Migrations, tables, domains, tenants, another bound on clocks.
      await writeClockOffset(admin, this.#config)
      await installDomains(admin, this.#config, name)
      await writePlacements(admin, placementsOf(this.#config))
    })
    this.#due.delete(name)
  }

  #requireLegal(name: ShardName, { region }: NodeDocument, known: readonly Placement[]): void {
    const question = { holding: 'authority', region } as const
    const decision = decidePlacement(question, this.awaited(name, known), jurisdictionsOf(this.#config.regions))
    if (decision.allowed) return
    const reasons = decision.refusals.map((refusal) => describeRefusal(question, refusal))
    throw new HoldfastError('residency_denied', `${name} does not open: ${reasons.join('; ')}`, {
      hint: `it opens once its primary is where they allow it: holdfast failover ${name} --what-if`,
      detail: { shard: name, reasons },
    })
  }
}

/** HZ-C3: an unlogged clock would start again from nothing after a crash. */
async function requirePermanent(admin: Connection, id: string): Promise<void> {
  const { rows } = await admin.query<{ relation: string }>('select holdfast.impermanent_relations() as relation')
  if (rows.length === 0) return
  throw new HoldfastError(
    'check_failed',
    `relations of ${id} would not survive a crash: ${rows.map((row) => row.relation).join(', ')}`,
    {
      hint: 'alter table ... set logged',
    },
  )
}

import { rm } from 'node:fs/promises'
import { configBelow } from '../../examples/payledger/demo/config.ts'
import { present } from '../../src/base/assert.ts'
import type { ShardName } from '../../src/directory/topology.ts'
import type { FleetConfigInput, ShardConfigInput } from '../../src/fleet/config.ts'
import type { EmbeddedFleet } from '../../src/fleet/fleet.ts'
import { attachFleet, quietRuntime, resolveConfig, startFleet } from '../../src/fleet/fleet.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { nodeOf } from '../../src/fleet/shard-servers.ts'
import type { ConnectionTarget, Row } from '../../src/postgres/statement.ts'
import { withConnection } from '../../src/postgres/postgres.ts'
import type { Release } from '../../src/postgres/release.ts'
import { nameInstalled } from '../../src/postgres/release.ts'
import { readInstalled } from '../../src/postgres/schema.ts'
import { temporaryFolder } from './fleet.ts'

/** A fleet of PayLedger that is started by one release and by another: docs/protocols/upgrade.md. */

export const payroll = 'eu-west/payroll' as ShardName
export const treasury = 'us-east/treasury' as ShardName
export const tenant = 'globex-eu'

/** A shard of one server. */
export const alone: ShardConfigInput = { durability: 'local', followers: [] }

export const runtimeOf = (release: Release) => ({ ...quietRuntime, release: () => Promise.resolve(release) })

export class UpgradingFleet implements AsyncDisposable {
  readonly root: string
  #fleet: EmbeddedFleet | undefined

  private constructor(root: string) {
    this.root = root
  }

  static async make(): Promise<UpgradingFleet> {
    return new UpgradingFleet(await temporaryFolder())
  }

  /** PayLedger's own without shards; all of one kind, or the payroll of another. */
  async configuration(
    shard?: ShardConfigInput,
    ofPayroll = shard,
  ): Promise<FleetConfigInput & { readonly dataDir: string }> {
    const config = await configBelow(this.root)
    if (shard === undefined || ofPayroll === undefined) return config
    return { ...config, shards: { [payroll]: ofPayroll, [treasury]: shard } }
  }

  async start(release: Release, shard?: ShardConfigInput, ofPayroll?: ShardConfigInput): Promise<void> {
    const { reference, config } = await resolveConfig({ config: await this.configuration(shard, ofPayroll) })
    this.#fleet = await startFleet(reference, config, false, runtimeOf(release))
  }

  async stop(): Promise<void> {
    await this.#fleet?.stop()
    this.#fleet = undefined
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
    await rm(this.root, { recursive: true, force: true, maxRetries: 5 })
  }

  async attached<T>(release: Release, use: (gateway: Gateway) => Promise<T>): Promise<T> {
    const runtime = { ...runtimeOf(release), archives: 'all' } as const
    const gateway = await attachFleet((await this.configuration()).dataDir, 'eu-west', runtime)
    try {
      return await use(gateway)
    } finally {
      await gateway.close()
    }
  }

  get supervisor() {
    return present(this.#fleet, 'a fleet runs').supervisor
  }

  shardOf(name: ShardName) {
    return this.supervisor.topology.shard(name)
  }

  primaryOf(shard: ShardName): ConnectionTarget {
    const document = this.shardOf(shard)
    return this.supervisor.shardServers.adminTarget(nodeOf(document, document.primary))
  }

  async ask<R = Row>(shard: ShardName, text: string): Promise<R[]> {
    return (await withConnection(this.primaryOf(shard), (admin) => admin.query<R>(text))).rows
  }

  /** Of each node. */
  async releasesOf(shard: ShardName): Promise<string[]> {
    const { shardServers } = this.supervisor
    return Promise.all(
      this.shardOf(shard).nodes.map(async (node) =>
        nameInstalled(await withConnection(shardServers.adminTarget(node), readInstalled)),
      ),
    )
  }
}

export const draft = (gateway: Gateway, run: string) =>
  gateway.transact({ tenant, action: 'payroll.draft', subject: run, actor: 'test' }, (tx) =>
    tx.query('payroll', `insert into payroll_runs (tenant, id, status, total_cents) values ($1, $2, 'draft', 1)`, [
      tenant,
      run,
    ]),
  )

export const runs = async (gateway: Gateway) => {
  const { value } = await gateway.read({ tenant, level: 'primary' }, (read) =>
    read.query<{ id: string }>('payroll', 'select id from payroll_runs order by id'),
  )
  return value.rows.map(({ id }) => id)
}

/** A migration that does something on the treasury alone. */
export const onTreasury = (what: string) => ({
  name: '9999-more.sql',
  text: `
    create table holdfast.more (id integer);
    do $$ begin if (select s.shard from holdfast.shard s) = '${treasury}' then ${what}; end if; end $$;`,
})

export const more = onTreasury('null')

import { execFile } from 'node:child_process'
import { rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { present } from '../../src/base/assert.ts'
import type { Clock } from '../../src/base/clock.ts'
import { systemClock } from '../../src/base/clock.ts'
import type { Progress } from '../../src/base/progress.ts'
import { silentProgress } from '../../src/base/progress.ts'
import type { OnStep } from '../../src/base/step.ts'
import { noStep } from '../../src/base/step.ts'
import type { NodeId, ShardName } from '../../src/directory/topology.ts'
import { loadConfig } from '../../src/fleet/config.ts'
import { nodeOf } from '../../src/fleet/shard-servers.ts'
import { Supervisor } from '../../src/fleet/supervisor.ts'
import type { ShardDocument } from '../../src/fleet/topology-store.ts'
import { withConnection } from '../../src/postgres/postgres.ts'
import type { Release } from '../../src/postgres/release.ts'
import { packageRelease } from '../../src/postgres/release.ts'
import { temporaryFolder } from './fleet.ts'

const run = promisify(execFile)

export const payroll = 'eu-west/payroll' as ShardName

export interface ShardFleetStart {
  /** Regions of the followers. */
  readonly followers?: readonly string[]
  readonly clock?: Clock
  readonly maxClockOffset?: number
  readonly release?: Release
  readonly onStep?: OnStep
  readonly progress?: Progress
}

/**
 * The supervisor of a fleet of one shard and no application, for a file of tests each of which begins with such a fleet of its
 * own. It is founded once for each list of followers, and stopped; a test begins with a copy of what that left, started again.
 * The copies lie where the fleet was founded, because the topology has the paths of its sockets.
 */
export class ShardFleet {
  readonly #followers: readonly string[]
  #root: string | undefined
  #supervisor: Supervisor | undefined

  constructor(followers: readonly string[]) {
    this.#followers = followers
  }

  get supervisor(): Supervisor {
    return present(this.#supervisor, 'a fleet was started')
  }

  shard(): ShardDocument {
    return this.supervisor.topology.shard(payroll)
  }

  ids(): NodeId[] {
    return this.shard().nodes.map(({ id }) => id)
  }

  /** With the fleet that the test before has left, where there is one; else with a new one. */
  async start(options: ShardFleetStart = {}): Promise<void> {
    if (!(await exists(await this.#dataDir()))) await this.#putFounded(options.followers)
    this.#supervisor = await this.#startSupervisor(options)
  }

  /** Asks a node as its administrator, the primary when left out. */
  async ask<R>(text: string, id: NodeId = this.shard().primary): Promise<R[]> {
    const target = this.supervisor.shardServers.adminTarget(nodeOf(this.shard(), id))
    const { rows } = await withConnection(target, (admin) => admin.query<R & Record<string, unknown>>(text))
    return rows
  }

  /** Nothing of it is left for the next test. */
  async end(): Promise<void> {
    await this.#supervisor?.close()
    this.#supervisor = undefined
    await rm(await this.#dataDir(), { recursive: true, force: true, maxRetries: 5 })
  }

  async remove(): Promise<void> {
    await this.end()
    await rm(await this.#folder(), { recursive: true, force: true, maxRetries: 5 })
  }

  async #folder(): Promise<string> {
    this.#root ??= await temporaryFolder()
    return this.#root
  }

  async #dataDir(): Promise<string> {
    return join(await this.#folder(), 'data')
  }

  async #putFounded(followers = this.#followers): Promise<void> {
    const [root, dataDir] = [await this.#folder(), await this.#dataDir()]
    const founded = join(root, `founded-${followers.join('-')}`)
    if (!(await exists(founded))) {
      const first = await this.#startSupervisor({ followers })
      await first.close()
      await rename(dataDir, founded)
    }
    // With the owner of each file.
    await run('cp', ['-a', founded, dataDir])
  }

  async #startSupervisor({
    followers = this.#followers,
    clock = systemClock,
    maxClockOffset = 500,
    release,
    onStep = noStep,
    progress = silentProgress,
  }: ShardFleetStart): Promise<Supervisor> {
    const root = await this.#folder()
    const config = await loadConfig(
      {
        fleet: 'one-shard',
        dataDir: join(root, 'data'),
        maxClockOffset,
        regions: { 'eu-west': { jurisdiction: 'EU' }, 'eu-central': { jurisdiction: 'EU' } },
        shards: { [payroll]: { durability: 'quorum', followers: [...followers], survive: 'region' } },
        domains: {},
        tenants: {},
      },
      root,
    )
    return Supervisor.start({
      config,
      wan: false,
      progress,
      clock,
      onStep,
      release: release ?? (await packageRelease()),
    })
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}

import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type { NodeId, RegionName } from '../../src/directory/topology.ts'
import { restartNode } from '../../src/fleet/node-restart.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { withConnection } from '../../src/postgres/postgres.ts'
import { eventually } from '../support/eventually.ts'
import type { TestFleet } from '../support/fleet.ts'
import { GatewayProcess } from '../support/gateway-process.ts'
import { saidOf } from '../torture/fault.ts'
import type { Region } from './stand.ts'
import { gatewayRegion, home, observerRegion, openStand, participant, regions } from './stand.ts'
import type { Actor } from './table.ts'

/** The fleet that cells are played on, the gateway under test, and what can be done to whom. */
const run = promisify(execFile)

export class Scene {
  readonly fleet: TestFleet
  /** Asks and settles; does nothing by itself. */
  readonly observer: Gateway
  #gateway: GatewayProcess | undefined
  readonly #stopped = new Set<NodeId>()
  readonly #killed = new Set<NodeId>()

  private constructor(fleet: TestFleet, observer: Gateway) {
    this.fleet = fleet
    this.observer = observer
  }

  static async open(): Promise<Scene> {
    const fleet = await openStand()
    try {
      return new Scene(fleet, await fleet.gateway(observerRegion, { services: false }))
    } catch (error) {
      await fleet.close()
      throw error
    }
  }

  async close(): Promise<void> {
    await this.heal()
    await this.#endGateway()
    await this.fleet.close()
  }

  /** The gateway under test, begun anew when it is gone. */
  async gateway(): Promise<GatewayProcess> {
    if (this.#gateway?.isRunning !== true) this.#gateway = await this.startGateway('when told')
    return this.#gateway
  }

  /** Another one takes the place of the gateway under test. */
  async replaceGateway(pauses: { readonly at: Parameters<GatewayProcess['pauseAt']>[0]; readonly shard: string }) {
    await this.#endGateway()
    this.#gateway = await this.startGateway(pauses)
    return this.#gateway
  }

  /** One that is stopped at a step would never end in order. */
  async #endGateway(): Promise<void> {
    this.#gateway?.kill('SIGKILL')
    await this.#gateway?.ended()
  }

  startGateway(pauses: NonNullable<Parameters<typeof GatewayProcess.start>[0]['pauses']>): Promise<GatewayProcess> {
    return GatewayProcess.start({ dataDir: this.fleet.config.dataDir, region: gatewayRegion, pauses })
  }

  /** The node that an actor is at the moment. */
  nodeOf(actor: Exclude<Actor, 'gateway'>): NodeId {
    const { shard, followerRegion } = actor.endsWith('of home') ? home : participant
    if (actor.startsWith('primary')) return this.fleet.primary(shard).id
    const document = Object.entries(this.fleet.supervisor.topology.document.shards).find(
      ([name]) => name === shard,
    )?.[1]
    const node = document?.nodes.find(({ region }) => region === followerRegion)
    if (node === undefined) throw new Error(`${shard} has no follower in ${followerRegion}`)
    return node.id
  }

  regionOf(actor: Actor): Region {
    if (actor === 'gateway') return gatewayRegion
    const { region, followerRegion } = actor.endsWith('of home') ? home : participant
    return actor.startsWith('primary') ? region : followerRegion
  }

  async killNode(id: NodeId): Promise<boolean> {
    this.#killed.add(id)
    this.#stopped.delete(id)
    await this.fleet.supervisor.servers.kill(id)
    return !this.fleet.supervisor.servers.isRunning(id)
  }

  async stopNode(id: NodeId): Promise<boolean> {
    const server = this.fleet.supervisor.servers.server(id)
    this.#stopped.add(id)
    await server.pause()
    return server.pid !== undefined && isStopped(server.pid)
  }

  /** Cuts a region off from all others, or from one of them. */
  async cut(region: Region, direction: 'both' | 'to' | 'from', from?: Region): Promise<boolean> {
    const others = from === undefined ? regions.filter((one) => one !== region) : [from]
    for (const other of others) {
      this.fleet.supervisor.links.cut(region as RegionName, other as RegionName, direction)
    }
    return this.isSilent(region, others)
  }

  healLink(region: Region, other: Region): void {
    this.fleet.supervisor.links.heal(region as RegionName, other as RegionName)
  }

  /** Everything that was done to servers and links is undone. */
  async heal(): Promise<void> {
    for (const region of regions) {
      for (const other of regions) if (other !== region) this.healLink(region, other)
    }
    for (const id of this.#stopped) await this.fleet.supervisor.servers.server(id).resume()
    this.#stopped.clear()
    // Followers first: a primary is back when a barrier has passed.
    const primaries = new Set<string>([home, participant].map(({ shard }) => this.fleet.primary(shard).id))
    const killed = [...this.#killed].toSorted((a, b) => Number(primaries.has(a)) - Number(primaries.has(b)))
    this.#killed.clear()
    for (const id of killed) await restartNode(this.fleet.supervisor, id)
  }

  /** Cancels or terminates what gateways run on the primary of a shard; how many it reached. */
  async signalBackends(shard: string, call: 'pg_cancel_backend' | 'pg_terminate_backend', waiting: boolean) {
    const which = waiting ? "wait_event = 'SyncRep'" : 'true'
    const rows = await this.fleet.ask<{ reached: boolean }>(
      shard,
      `select ${call}(pid) as reached from pg_stat_activity where application_name like 'gateway-%' and ${which}`,
    )
    return rows.filter(({ reached }) => reached).length
  }

  /** Until something on the primary waits for its followers. */
  async untilWaiting(shard: string): Promise<void> {
    await eventually(async () => {
      const rows = await this.fleet.ask(shard, "select from pg_stat_activity where wait_event = 'SyncRep'")
      return rows.length > 0
    }, 10_000)
  }

  /** A connection over one of the links that should be dead gets no answer; an error would say something else. */
  async isSilent(region: Region, others: readonly Region[]): Promise<boolean> {
    const { supervisor } = this.fleet
    for (const document of Object.values(supervisor.topology.document.shards)) {
      for (const node of document.nodes) {
        const end = node.region as Region
        const asks = end === region ? others[0] : others.includes(end) ? region : undefined
        const host = asks === undefined ? undefined : node.links[asks as RegionName]
        if (host === undefined) continue
        const target = supervisor.servers.target({ host, port: node.port }, 'holdfast_gateway', 'harness')
        return (await saidOf(withConnection(target, (connection) => connection.query('select 1')))) === 'nothing'
      }
    }
    return false
  }
}

/** What the system says of a process: stopped by a signal. */
export async function isStopped(pid: number): Promise<boolean> {
  let isIt = false
  await eventually(async () => {
    const { stdout } = await run('ps', ['-o', 'stat=', '-p', String(pid)])
    isIt = stdout.trim().startsWith('T')
    return isIt
  }, 5_000).catch(() => undefined)
  return isIt
}

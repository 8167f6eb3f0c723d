import { chmod, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import type { RegionName } from '../directory/topology.ts'
import { giveTo } from '../postgres/server/data-directory.ts'
import type { ServerUser } from '../postgres/server/server-user.ts'
import type { Link, LinkDirection } from './links.ts'
import { openLink } from './links.ts'
import { type LinkCounters, sumOf, nothingCrossed } from './link-meter.ts'

/** The links of an embedded fleet: from every region to every node of another one, for clients and for replication apart. */

export type LinkKind = 'client' | 'replication'

export interface LinkNetworkOptions {
  readonly runDir: string
  readonly regions: readonly RegionName[]
  /** The round trip between two regions, in milliseconds. */
  readonly delay: (from: RegionName, to: RegionName) => number
  readonly user: ServerUser | undefined
  readonly clock: Clock
}

interface LinkedNode {
  readonly folder: string
  readonly region: RegionName
  readonly host: string
  readonly port: number
}

interface NamedLink {
  readonly from: RegionName
  readonly to: RegionName
  readonly kind: LinkKind
  readonly link: Link
}

export interface LinkCount extends LinkCounters {
  readonly from: RegionName
  readonly to: RegionName
  readonly kind: LinkKind
  /** The `application_name` of the connections: a gateway, one of its services, a follower. */
  readonly application: string
}

export class LinkNetwork {
  readonly #options: LinkNetworkOptions
  readonly #links = new Map<string, NamedLink>()

  constructor(options: LinkNetworkOptions) {
    this.#options = options
  }

  /** Opens the links to a node from every other region; gives the socket directories for clients, by region. */
  async openFor(node: LinkedNode): Promise<Readonly<Record<RegionName, string>>> {
    const clients: Record<RegionName, string> = {}
    for (const from of this.#options.regions) {
      if (from === node.region) continue
      clients[from] = await this.#open(from, node, 'client')
      await this.#open(from, node, 'replication')
    }
    return clients
  }

  /** Where a server in `from` reaches the node of a folder for replication. */
  replicationHost(from: RegionName, folder: string): string {
    return this.#hostOf(from, folder, 'replication')
  }

  /** What went through the links since the last reset, by pair of regions, kind, and who connected. */
  counts(): LinkCount[] {
    const sums = new Map<string, LinkCount>()
    for (const { from, to, kind, link } of this.#links.values()) {
      for (const [application, counters] of link.countersByApplication()) {
        const key = JSON.stringify([from, to, kind, application])
        sums.set(key, { from, to, kind, application, ...sumOf(sums.get(key) ?? nothingCrossed, counters) })
      }
    }
    return [...sums.values()]
  }

  resetCounts(): void {
    for (const { link } of this.#links.values()) link.resetCounters()
  }

  /**
   * Stops bytes between two regions without closing anything: those that go to `to`, those that come from it, or both,
   * whichever end opened the connection.
   */
  cut(from: RegionName, to: RegionName, direction: LinkDirection): void {
    const reversed = direction === 'to' ? 'from' : direction === 'from' ? 'to' : 'both'
    for (const link of this.#between(from, to)) link.cut(direction)
    for (const link of this.#between(to, from)) link.cut(reversed)
  }

  heal(from: RegionName, to: RegionName): void {
    for (const link of [...this.#between(from, to), ...this.#between(to, from)]) link.heal()
  }

  async close(): Promise<void> {
    await Promise.all([...this.#links.values()].map(({ link }) => link.close()))
    this.#links.clear()
  }

  #between(from: RegionName, to: RegionName): Link[] {
    return [...this.#links.values()].filter((link) => link.from === from && link.to === to).map(({ link }) => link)
  }

  async #open(from: RegionName, node: LinkedNode, kind: LinkKind): Promise<string> {
    const host = this.#hostOf(from, node.folder, kind)
    if (this.#links.has(host)) return host
    await mkdir(host, { recursive: true })
    await chmod(host, 0o700)
    const listenPath = join(host, `.s.PGSQL.${node.port}`)
    const link = await openLink({
      fromRegion: from,
      toRegion: node.region,
      toNode: node.folder,
      kind,
      listenPath,
      targetPath: join(node.host, `.s.PGSQL.${node.port}`),
      delayMs: this.#options.delay(from, node.region) / 2,
      clock: this.#options.clock,
    })
    // Servers connect through it as well.
    await giveTo(this.#options.user, host, listenPath)
    this.#links.set(host, { from, to: node.region, kind, link })
    return host
  }

  #hostOf(from: RegionName, folder: string, kind: LinkKind): string {
    const index = this.#options.regions.indexOf(from)
    present(this.#options.regions[index], `region ${from} is configured`)
    return join(this.#options.runDir, `${kind === 'client' ? 'c' : 'r'}${index}-${folder}`)
  }
}

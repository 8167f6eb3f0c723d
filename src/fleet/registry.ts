import { join } from 'node:path'
import { HoldfastError } from '../base/errors.ts'
import type { RegionName } from '../directory/topology.ts'
import type { Release } from '../postgres/release.ts'
import { nameRelease, releaseChecksum } from '../postgres/release.ts'
import type { ConfigReference, FleetConfig } from './config.ts'
import { loadConfig } from './config.ts'
import type { FleetHome } from './home.ts'
import { fleetHome, readJsonFile, writeFileDurably } from './home.ts'
import { lockHolder } from './supervisor-lock.ts'

/**
 * What a running supervisor leaves in the data directory, so that gateways and commands can attach: where it answers, and the
 * configuration that it runs by. They take it from here and never from the file, which may be another one by now: two
 * configurations of one fleet would archive in one place and restore from another.
 *
 * Mode 0600, as the keys have it: whoever knows the address of a webhook may be able to write there.
 */
export interface Registry {
  readonly pid: number
  readonly controlSocket: string
  /** What its shards have. None stands there where a release wrote it that did not say so yet. */
  readonly release?: { readonly name: string; readonly checksum: string }
  readonly config: ConfigReference
  readonly gateways: readonly GatewayAddress[]
}

export interface GatewayAddress {
  readonly region: RegionName
  readonly url: string
}

export async function writeRegistry(home: FleetHome, registry: Registry): Promise<void> {
  await writeFileDurably(home.registryFile, JSON.stringify(registry, null, 2))
}

/** The registry of the supervisor that holds a data directory now, or undefined when none does. */
export async function findSupervisor(dataDir: string): Promise<Registry | undefined> {
  const home = fleetHome(dataDir)
  const holder = await lockHolder(home.lockFile)
  if (holder === undefined) return undefined
  const registry = (await readJsonFile(home.registryFile)) as Registry | undefined
  // One that was killed left its own behind, and the next one is still starting.
  return registry?.pid === holder.pid ? registry : undefined
}

/** The same, or `fleet_not_running`. */
export async function requireSupervisor(dataDir: string): Promise<Registry> {
  const registry = await findSupervisor(dataDir)
  if (registry !== undefined) return registry
  throw new HoldfastError('fleet_not_running', `no supervisor runs on ${dataDir}`, {
    hint: 'start it with: holdfast up',
  })
}

/** U5: code knows only the functions of its own release. Throws `release_differs`. */
export function requireSameRelease({ pid, release }: Registry, own: Release): void {
  if (release?.checksum === releaseChecksum(own)) return
  const theirs = release?.name ?? 'of an earlier form'
  throw new HoldfastError(
    'release_differs',
    `the fleet of process ${pid} is release ${theirs}; this is ${nameRelease(own)}`,
    {
      hint: 'use the commands of that release, or upgrade the fleet: holdfast down, then holdfast up',
    },
  )
}

export function configOf(registry: Registry): Promise<FleetConfig> {
  return loadConfig(registry.config.source, registry.config.baseDir)
}

export function controlSocketOf(home: FleetHome): string {
  return join(home.runDir, 'control.sock')
}

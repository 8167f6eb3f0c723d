import { readFile } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { present } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { DomainEntry, TenantEntry } from '../directory/directory.ts'
import type { Regions } from '../directory/policy.ts'
import type { DomainName, Durability, Jurisdiction, RegionName, ShardName, TenantName } from '../directory/topology.ts'
import { checkDraft } from './config-check.ts'
import type { ConfigProblem, ConfigSource, Report } from './config-problem.ts'
import { configError, objectSource, yamlSource } from './config-problem.ts'
import { readDraft } from './config-read.ts'

/**
 * The configuration of a fleet, parsed once at the edge: after this, names are known, paths are absolute, defaults
 * are filled, and everything lies where the law allows it. `docs/reference/configuration.md` describes each key.
 */
export interface FleetConfig {
  readonly fleet: string
  /** Absolute, like every path here. */
  readonly dataDir: string
  readonly listen: ListenAddress
  /** The application that `holdfast up` serves. */
  readonly app: string | null
  readonly maxClockOffsetMs: number
  /** Records of transactions are kept for at least this long: a restore may go back that far. */
  readonly restoreWindowMs: number
  readonly regions: ReadonlyMap<RegionName, RegionConfig>
  readonly links: readonly RegionLink[]
  readonly shards: ReadonlyMap<ShardName, ShardConfig>
  readonly domains: ReadonlyMap<DomainName, DomainConfig>
  readonly tenants: ReadonlyMap<TenantName, TenantEntry>
  /** The folder of the invariants. */
  readonly invariants: string | null
  readonly drills: { readonly everyMs: number; readonly targetAgeMs: number } | null
  /** Where the outbox delivers its events; without it they stay in the outbox. */
  readonly outbox: { readonly webhook: string } | null
}

export interface ListenAddress {
  readonly host: string
  /** 0 lets the system choose. */
  readonly port: number
}

export interface RegionConfig {
  readonly name: RegionName
  readonly jurisdiction: Jurisdiction
  /** The folder that holds the backups kept in this region. */
  readonly archive: string | null
}

export interface RegionLink {
  readonly between: readonly [RegionName, RegionName]
  /** There and back; one way takes half. */
  readonly roundTripMs: number
}

export interface ShardConfig {
  readonly name: ShardName
  /** Where its first primary is born. */
  readonly region: RegionName
  readonly durability: Durability
  /** One region for each follower. */
  readonly followers: readonly RegionName[]
  /** `region`: every acknowledgement includes a follower in another region. */
  readonly survive: 'node' | 'region'
  /** Where its backups go: its own region if that has an archive, else a follower's, else another legal one. */
  readonly archive: { readonly region: RegionName; readonly path: string } | null
}

export interface DomainConfig extends DomainEntry {
  /** The folder of its migrations. */
  readonly schema: string | null
  /** Of a derived domain: for each source domain, its tables and the columns that may leave it. */
  readonly from: ReadonlyMap<DomainName, ReadonlyMap<string, readonly string[]>>
}

/** What `openFleet({ config: {...} })` takes in place of a file; the same keys as `holdfast.yaml`. */
export interface FleetConfigInput {
  readonly fleet: string
  readonly dataDir?: string | undefined
  readonly listen?: string | undefined
  readonly app?: string | null | undefined
  readonly maxClockOffset?: number | undefined
  readonly restoreWindow?: string | undefined
  readonly regions: Readonly<Record<string, { jurisdiction: string; archive?: string | null | undefined }>>
  readonly links?: Readonly<Record<string, number>> | null | undefined
  readonly shards: Readonly<Record<string, ShardConfigInput>>
  readonly domains?: Readonly<Record<string, DomainConfigInput>> | null | undefined
  readonly tenants?: Readonly<Record<string, { home: string; policy: PolicyInput }>> | null | undefined
  readonly invariants?: string | null | undefined
  readonly drills?: { every: string; target: string } | null | undefined
  readonly outbox?: { webhook: string } | null | undefined
}

export interface ShardConfigInput {
  readonly durability?: Durability | undefined
  readonly followers?: readonly string[] | undefined
  readonly survive?: 'node' | 'region' | undefined
}

export interface PolicyInput {
  readonly authority: readonly string[]
  readonly replicas: readonly string[]
  readonly otherwise: 'read-only' | 'reject'
}

export type DomainConfigInput =
  | {
      readonly class: 'regulated'
      readonly placement: string
      readonly tables: readonly string[]
      readonly schema?: string | null | undefined
      readonly policy?: PolicyInput | null | undefined
    }
  | {
      readonly class: 'reference'
      readonly source: string
      readonly tables: readonly string[]
      readonly schema?: string | null | undefined
    }
  | {
      readonly class: 'derived'
      readonly at: string
      readonly from: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>>
      readonly tables?: readonly string[] | undefined
      readonly schema?: string | null | undefined
    }

/**
 * A configuration as it was read: with this alone it can be had again, whatever becomes of the file. Plain data, so that JSON
 * keeps it.
 */
export interface ConfigReference {
  readonly source: FleetConfigInput
  /** Relative paths are taken from here. */
  readonly baseDir: string
  /** The file that it was read from, absolute; null where it was given as an object. */
  readonly file: string | null
}

/**
 * Reads a configuration file, or takes the same thing as an object. Relative paths are taken from the file's
 * folder, for an object from `baseDir`. Throws `config_invalid` with every problem and its line; a retry fails again.
 */
export async function loadConfig(source: string | FleetConfigInput, baseDir = process.cwd()): Promise<FleetConfig> {
  return (await readConfig(source, baseDir)).config
}

/** The same, with what it was read from. */
export async function readConfig(
  source: string | FleetConfigInput,
  baseDir = process.cwd(),
): Promise<{ readonly reference: ConfigReference; readonly config: FleetConfig }> {
  if (typeof source !== 'string') {
    return { reference: { source, baseDir, file: null }, config: configFrom(objectSource(source), baseDir) }
  }
  const file = resolve(baseDir, source)
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (cause) {
    throw new HoldfastError('config_invalid', `${source}: cannot be read`, {
      hint: 'name a holdfast.yaml, or write one with `holdfast init`',
      cause,
    })
  }
  const yaml = yamlSource(text, source)
  const config = configFrom(yaml, dirname(file))
  // It has just been seen to have the form.
  return { reference: { source: yaml.value as FleetConfigInput, baseDir: dirname(file), file }, config }
}

/** A configuration from its YAML text. `file` is what messages call it. Throws `config_invalid`. */
export function parseConfig(text: string, from: { readonly baseDir: string; readonly file: string }): FleetConfig {
  return configFrom(yamlSource(text, from.file), from.baseDir)
}

function configFrom(source: ConfigSource, baseDir: string): FleetConfig {
  const problems: ConfigProblem[] = []
  const report: Report = (path, message, hint, at = 'value') => problems.push({ path, at, message, hint })
  const config = checkDraft(readDraft(source.value, resolve(baseDir), report), report)
  if (problems.length > 0) throw configError(source, problems)
  return present(config, 'a draft without problems is a configuration')
}

/** The jurisdictions of a fleet's regions, as the policy takes them. */
export function jurisdictionsOf(regions: FleetConfig['regions']): Regions {
  return new Map([...regions.values()].map(({ name, jurisdiction }) => [name, jurisdiction]))
}

/** What one round trip between two regions takes by the `links`; 0 within a region and where none is given. */
export function roundTripMs(links: FleetConfig['links'], a: RegionName, b: RegionName): number {
  return links.find(({ between }) => a !== b && between.includes(a) && between.includes(b))?.roundTripMs ?? 0
}

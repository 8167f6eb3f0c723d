import { z } from 'zod'
import { birthRegion, type TenantEntry } from '../directory/directory.ts'
import type { DomainName, RegionName, ShardName, TenantName } from '../directory/topology.ts'
import type { DomainConfig, RegionConfig, ShardConfig } from './config.ts'
import type { DomainForm, RootForm } from './config-form.ts'
import { configForms, forms } from './config-form.ts'
import type { ConfigPath, Report } from './config-problem.ts'

/**
 * From plain data to parts of the right form. Parts are read one by one, and what is wrong in one is reported and left
 * out, so that the checks between parts can still run over the rest.
 */
export interface ConfigDraft {
  /** `null` when its own keys are wrong. */
  readonly root: RootForm | null
  readonly regions: Entries<RegionName, RegionConfig>
  /** By their key, `eu-west~us-east`. */
  readonly links: Entries<string, number>
  readonly shards: Entries<ShardName, Omit<ShardConfig, 'archive'>>
  readonly domains: Entries<DomainName, DomainConfig>
  readonly tenants: Entries<TenantName, TenantEntry>
}

export interface Entries<Name extends string, Value> {
  /** Every name that was written, of parts with a wrong form too. */
  readonly names: ReadonlySet<string>
  readonly values: ReadonlyMap<Name, Value>
}

export function readDraft(value: unknown, baseDir: string, report: Report): ConfigDraft {
  const parts = configForms(baseDir)
  const root = read(parts.root, value, [], report)
  const section = (name: string): Readonly<Record<string, unknown>> => {
    const entries = isRecord(value) ? value[name] : undefined
    return isRecord(entries) ? entries : {}
  }
  const entries = <Name extends string, Form, Value>(
    key: string,
    names: z.ZodType<Name>,
    form: z.ZodType<Form>,
    toValue: (name: Name, form: Form) => Value,
  ): Entries<Name, Value> => {
    const values = new Map<Name, Value>()
    for (const [written, content] of Object.entries(section(key))) {
      const name = read(names, written, [key, written], report, 'key')
      const parsed = read(form, content, [key, written], report)
      if (name !== null && parsed !== null) values.set(name, toValue(name, parsed))
    }
    return { names: new Set(Object.keys(section(key))), values }
  }
  return {
    root,
    regions: entries('regions', forms.regionName, parts.region, (name, form) => ({ name, ...form })),
    links: entries('links', z.string(), parts.link, (_, milliseconds) => milliseconds),
    shards: entries('shards', forms.shardName, parts.shard, (name, form) => ({
      name,
      region: birthRegion(name),
      ...form,
    })),
    domains: entries('domains', forms.domainName, parts.domain, toDomain),
    tenants: entries('tenants', forms.tenantName, parts.tenant, (name, form) => ({ name, ...form })),
  }
}

function toDomain(name: DomainName, form: DomainForm): DomainConfig {
  const { schema, tables } = form
  switch (form.class) {
    case 'regulated':
      return {
        name,
        class: form.class,
        placement: form.placement,
        policy: form.policy,
        tables,
        schema,
        from: new Map(),
      }
    case 'reference':
      return { name, class: form.class, placement: form.source, policy: null, tables, schema, from: new Map() }
    case 'derived': {
      const from = Object.entries(form.from).map(
        ([source, columns]) => [source as DomainName, new Map(Object.entries(columns))] as const,
      )
      return { name, class: form.class, placement: form.at, policy: null, tables, schema, from: new Map(from) }
    }
  }
}

/**
 * What the form makes of a value, or `null` when it cannot. Every problem is reported; unknown keys are dropped
 * then, so that what stands beside them is still checked.
 */
function read<Output>(
  form: z.ZodType<Output>,
  value: unknown,
  path: ConfigPath,
  report: Report,
  at?: 'key',
): Output | null {
  const parsed = form.safeParse(value, { error: describeIssue })
  if (parsed.success) return parsed.data
  const unknownKeys: ConfigPath[] = []
  for (const issue of parsed.error.issues) {
    const inside = issue.path.filter((segment) => typeof segment !== 'symbol')
    if (issue.code === 'unrecognized_keys') {
      for (const key of issue.keys) {
        unknownKeys.push([...inside, key])
        reportUnknownKey([...path, ...inside, key], issue.message, report)
      }
    } else {
      const [message = '', hint = ''] = issue.message.split('; ', 2)
      report([...path, ...inside], message, hint, at)
    }
  }
  if (unknownKeys.length < parsed.error.issues.length && !parsed.error.issues.every(isUnknownKeys)) return null
  const known = form.safeParse(unknownKeys.reduce(withoutKey, value))
  return known.success ? known.data : null
}

const isUnknownKeys = (issue: z.core.$ZodIssue) => issue.code === 'unrecognized_keys'

function reportUnknownKey(path: ConfigPath, knownKeys: string, report: Report): void {
  const external = ['nodes', 'patroni', 'command', 'pgbackrest', 'promote', 'backup']
  if (path[0] === 'shards' && external.includes(String(path.at(-1)))) {
    report(path, 'external nodes are not supported yet', 'leave it out: the fleet runs its own servers', 'key')
  } else report(path, 'unknown key', knownKeys, 'key')
}

function withoutKey(value: unknown, path: ConfigPath): unknown {
  const [head, ...rest] = path
  if (Array.isArray(value)) return value.map((item, index) => (index === head ? withoutKey(item, rest) : item))
  if (!isRecord(value)) return value
  const kept = Object.entries(value).filter(([key]) => rest.length > 0 || key !== head)
  return Object.fromEntries(kept.map(([key, item]) => [key, key === head ? withoutKey(item, rest) : item]))
}

const describeIssue: z.core.$ZodErrorMap = (issue) => {
  if (issue.code === 'invalid_type') {
    return issue.input === undefined ? `is missing; write a ${noun(issue.expected)}` : notA(issue.expected)
  }
  if (issue.code !== 'invalid_value') return undefined
  const right = issue.values.map(String).join(' or ')
  return issue.input === undefined ? `is missing; write ${right}` : `${shown(issue.input)} is not known; write ${right}`
}

/** A value as a message may show it; a mapping may be long, and by an alias even hold itself. */
function shown(input: unknown): string {
  return typeof input === 'object' ? 'this' : JSON.stringify(input)
}

function notA(expected: string): string {
  return `is not a ${noun(expected)}; write a ${noun(expected)}`
}

function noun(expected: string): string {
  if (expected === 'object' || expected === 'record') return 'mapping of keys to values'
  return expected === 'array' ? 'list' : expected
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

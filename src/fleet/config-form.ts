import { resolve } from 'node:path'
import { z } from 'zod'
import { tenantHome } from '../directory/directory.ts'
import type { ResidencyPolicy } from '../directory/policy.ts'
import type { DomainName, Jurisdiction, RegionName, ShardName, TenantName } from '../directory/topology.ts'
import { type WebhookFault, webhookFault } from '../transaction/outbox/webhook.ts'

/**
 * The form of a configuration: which keys there are, and what each value looks like. What values mean to each
 * other is in `config-check.ts`.
 *
 * A message of a form reads `what is wrong; what would be right`.
 *
 * Lengths are bounded because names travel: a gid of PostgreSQL has room for 200 bytes, an application name
 * and a slot name for 63. Names have no underscore where `_` separates them in a gid.
 */
const namePattern = '[a-z][a-z0-9-]*'

function name<Name extends string>(what: string, pattern: string, lengthMax: number, example: string) {
  const right = `write ${what} in lower case, at most ${lengthMax} characters, e.g. ${example}`
  return z
    .string({ error: (issue) => `${issue.input === undefined ? 'is missing' : 'is not a name'}; ${right}` })
    .refine((text) => text.length <= lengthMax && new RegExp(`^${pattern}$`).test(text), {
      error: (issue) => `${JSON.stringify(issue.input)} is not ${what}; ${right}`,
    })
    .transform((text) => text as Name)
}

const sqlName = (what: string) => name<string>(what, '[a-z_][a-z0-9_]*', 63, 'payroll_runs')

export const forms = {
  fleetName: name<string>('a fleet name', namePattern, 32, 'payledger'),
  regionName: name<RegionName>('a region name', namePattern, 24, 'eu-west'),
  shardName: name<ShardName>('a shard name', `${namePattern}/${namePattern}`, 48, 'eu-west/payroll'),
  domainName: name<DomainName>('a domain name', '[a-z][a-z0-9_-]*', 48, 'payroll'),
  tenantName: name<TenantName>('a tenant name', '[a-z0-9][a-z0-9._-]*', 63, 'globex-eu'),
}

const jurisdiction = z
  .string()
  .regex(/^[A-Z][A-Z0-9-]{1,15}$/, { error: 'is not a jurisdiction; write it in capitals, e.g. EU' })
  .transform((text) => text as Jurisdiction)

const nonEmpty = { error: 'is empty; name at least one' }

/** An object that refuses keys it does not know, and names those it does. */
function section<Shape extends z.ZodRawShape>(shape: Shape) {
  return z.strictObject(shape, {
    error: (issue) =>
      issue.code === 'unrecognized_keys' ? `known keys are ${Object.keys(shape).join(', ')}` : undefined,
  })
}

const policyForm = section({
  authority: z.array(forms.regionName).min(1, nonEmpty),
  replicas: z.array(jurisdiction).min(1, nonEmpty),
  otherwise: z.enum(['read-only', 'reject']),
}) satisfies z.ZodType<ResidencyPolicy>

const tables = z.array(sqlName('a table name'))

/** Milliseconds of `24h`, `5m`, `30s`, `250ms`. */
function durationMs(pattern: RegExp, right: string) {
  const units: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }
  return z
    .string()
    .regex(pattern, { error: `is not a duration; write ${right}` })
    .transform((text) => Number.parseInt(text, 10) * (units[text.replace(/^\d+|-ago$/g, '')] ?? 0))
}

export const portMax = 65_535

const listen = z
  .string()
  .regex(/^(\[[0-9a-f:.]+\]|[^\s:[\]]+):\d{1,5}$/i, {
    error: 'is not an address; write host:port, e.g. 127.0.0.1:7400',
  })
  .transform((text) => {
    const colon = text.lastIndexOf(':')
    return { host: text.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(text.slice(colon + 1)) }
  })
  .refine(({ port }) => port <= portMax, { error: `has a port above ${portMax}; write host:port, e.g. 127.0.0.1:7400` })

const milliseconds = z
  .number()
  .min(0, { error: 'is negative; write milliseconds, e.g. 80' })
  .max(60_000, { error: 'is more than a minute; write milliseconds, e.g. 80' })

/** A transaction that lives for longer is refused at its end, so nothing shorter than any transaction will do. */
const restoreWindowMsMin = 3_600_000

const webhookRight: Readonly<Record<WebhookFault, string>> = {
  'has user info':
    'a request takes no name and no password from there, write what the receiver is to know into the path',
  'has a blocked port': 'no request is sent to the port of another protocol, write another one',
}

const webhook = z
  .url({
    protocol: /^https?$/,
    error: 'is not a web address; write it with its scheme, e.g. http://127.0.0.1:9999/hook',
    abort: true,
  })
  .superRefine((url, context) => {
    const fault = webhookFault(url)
    if (fault !== null) context.addIssue({ code: 'custom', message: `${fault}; ${webhookRight[fault]}` })
  })

export const dataDirDefault = '.holdfast'

const mapping = z
  .record(z.string(), z.unknown())
  .nullish()
  .transform((entries) => entries ?? {})

/** The form of each part, for files of one folder: relative paths are taken from `baseDir`. */
export function configForms(baseDir: string) {
  const path = z
    .string()
    .min(1, { error: 'is empty; write a path' })
    .transform((text) => resolve(baseDir, text))
  const optionalPath = path.nullable().default(null)
  const archive = z
    .string()
    .min(1, { error: 'is empty; write a directory' })
    .refine((text) => !/^[a-z][a-z0-9+.-]+:\/\//.test(text), {
      error: 'is not a directory; object storage is not supported yet, write a directory',
    })
    .transform((text) => resolve(baseDir, text))
  const schema = optionalPath
  const domain = z.discriminatedUnion(
    'class',
    [
      section({
        class: z.literal('regulated'),
        placement: z.union([z.literal(tenantHome), forms.shardName], {
          error: 'is not a placement; write tenant-home or the name of a shard',
        }),
        schema,
        tables: tables.min(1, nonEmpty),
        policy: policyForm.nullable().default(null),
      }),
      section({ class: z.literal('reference'), source: forms.shardName, schema, tables: tables.min(1, nonEmpty) }),
      section({
        class: z.literal('derived'),
        at: forms.shardName,
        schema,
        tables: tables.default([]),
        from: z.record(z.string(), z.record(z.string(), z.array(sqlName('a column name')).min(1, nonEmpty))),
      }),
    ],
    { error: 'is not a data class; write regulated, reference or derived' },
  )
  return {
    root: section({
      fleet: forms.fleetName,
      dataDir: path.default(resolve(baseDir, dataDirDefault)),
      listen: listen.default({ host: '127.0.0.1', port: 7400 }),
      app: optionalPath,
      maxClockOffset: milliseconds
        .int({ error: 'is not whole; write milliseconds, e.g. 500' })
        .min(1, { error: 'is not positive; write milliseconds, e.g. 500' })
        .default(500),
      restoreWindow: durationMs(/^[1-9]\d{0,5}[smhd]$/, 'a number and s, m, h or d, e.g. 35d')
        .refine((ms) => ms >= restoreWindowMsMin, { error: 'is less than an hour; write a longer one, e.g. 35d' })
        .default(35 * 86_400_000),
      regions: mapping,
      links: mapping,
      shards: mapping,
      domains: mapping,
      tenants: mapping,
      invariants: optionalPath,
      drills: section({
        every: durationMs(/^[1-9]\d{0,5}[smhd]$/, 'a number and s, m, h or d, e.g. 24h'),
        target: durationMs(/^\d{1,6}[smhd]-ago$/, 'an age, e.g. 5m-ago'),
      })
        .nullable()
        .default(null),
      outbox: section({ webhook }).nullable().default(null),
    }),
    region: section({ jurisdiction, archive: archive.nullable().default(null) }),
    link: milliseconds,
    shard: section({
      durability: z.enum(['quorum', 'local']).default('quorum'),
      followers: z.array(forms.regionName).default([]),
      survive: z.enum(['node', 'region']).default('node'),
    }),
    domain,
    tenant: section({ home: forms.shardName, policy: policyForm }),
  }
}

export type RootForm = z.output<ReturnType<typeof configForms>['root']>
export type DomainForm = z.output<ReturnType<typeof configForms>['domain']>

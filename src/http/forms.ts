import { z } from 'zod'
import { HoldfastError } from '../base/errors.ts'
import { waitMsMax } from '../reading/wait-budget.ts'

/** What requests and answers of the API look like. The same forms check requests and describe both in OpenAPI. */

const text = z.string().min(1)
const transactionId = z.uuid()
const timestamp = z.string().meta({ description: 'HLC, e.g. 2026-04-02T10:00:05.120Z+0003', format: 'hlc' })
const values = z.array(z.json()).default([]).meta({ description: 'Write integers past 2^53 as strings.' })
const row = z.record(z.string(), z.unknown())
const result = z.object({ rows: z.array(row), rowCount: z.int() })

export const transactionForm = z.strictObject({
  tenant: text,
  action: text,
  subject: text,
  actor: text,
  isolation: z.enum(['read committed', 'repeatable read', 'serializable']).optional(),
  statements: z
    .array(
      z.strictObject({
        domain: text,
        text,
        values,
        batch: z.boolean().default(false).meta({
          description: 'Returns no rows; on a far shard it travels with the prepare instead of costing a round trip.',
        }),
        rows: z.int().min(0).optional().meta({ description: 'How many rows it must affect; else nothing is written.' }),
      }),
    )
    .min(1),
  events: z.array(z.strictObject({ name: text, payload: z.json() })).default([]),
})

export const transactionAnswer = z.object({
  transactionId,
  commitTimestamp: timestamp,
  shards: z.array(text),
  replayed: z.boolean(),
  results: z.array(result.nullable()).meta({ description: 'One a statement; null for a batched one.' }),
})

export const readForm = z.strictObject({
  tenant: text,
  level: z.enum(['session', 'causal', 'primary', 'strong', 'stale']).default('session'),
  maxStaleMs: z
    .int()
    .min(0)
    .optional()
    .meta({ description: 'With the level stale: the oldest that an answer may be.' }),
  waitMs: z
    .int()
    .min(0)
    .max(waitMsMax)
    .optional()
    .meta({
      description:
        'How long nodes may take to become fresh. When left out 50, for causal at least twice the longest round trip, ' +
        'five times where the token names pending branches, 2,000 for strong.',
    }),
  snapshot: z
    .boolean()
    .default(false)
    .meta({ description: 'All shards as of one moment; level and reach have no part in it.' }),
  route: text.max(100).optional().meta({ description: 'What reads, e.g. `GET /runs/{id}`: a label of metrics.' }),
  reach: z
    .enum(['local', 'fan-out'])
    .optional()
    .meta({ description: 'A `local` read that is answered in another region is recorded as a drift.' }),
  queries: z.array(z.strictObject({ domain: text, text, values })).min(1),
})

const served = z.object({
  shard: text,
  node: text,
  role: z.enum(['primary', 'follower']),
  region: text,
  appliedThrough: text,
  waitedMs: z.number(),
  rerouted: z.boolean(),
})

export const readAnswer = z.object({ results: z.array(result), served: z.array(served) })

export const timelineQuery = z.strictObject({
  tenant: text.optional(),
  since: timestamp.optional(),
  until: timestamp.optional(),
  after: text.optional().meta({ description: 'The `next` of the page before: where this one begins.' }),
  limit: z.coerce.number().pipe(z.int().min(1).max(1_000)).default(100),
})

export const timelineAnswer = z.object({
  entries: z.array(
    z.object({
      name: text,
      transactionId: transactionId.nullable(),
      commitTimestamp: timestamp,
      tenant: text.nullable(),
      action: text.nullable(),
      subject: text.nullable(),
      actor: text.nullable(),
      shards: z.array(text),
      attributed: z.boolean(),
    }),
  ),
  next: text.nullable().meta({ description: 'Where to go on with `after`; null at the end. No entry comes again.' }),
})

export const transactionView = z.object({
  transactionId,
  outcome: z.enum(['committed', 'aborted', 'in_doubt', 'refused']),
  commitTimestamp: timestamp.nullable(),
  tenant: text.nullable(),
  action: text.nullable(),
  subject: text.nullable(),
  actor: text.nullable(),
  home: text.nullable(),
  refusal: z.object({ code: text, reason: z.string() }).nullable(),
  record: z.object({ outcome: z.enum(['COMMITTED', 'ABORTED']), homeEpoch: z.int(), reason: z.string() }).nullable(),
  branches: z.array(
    z.object({
      shard: text,
      state: z.enum(['prepared', 'committed', 'absent', 'unreachable']),
      prepareTimestamp: timestamp.nullable(),
      accepted: z.object({ actor: text, reason: text }).nullable(),
    }),
  ),
})

const status = z.enum(['proven', 'pending', 'broken'])

export const evidenceAnswer = z.object({
  transactionId,
  status,
  commitTimestamp: timestamp.nullable(),
  tenant: text.nullable(),
  action: text.nullable(),
  subject: text.nullable(),
  actor: text.nullable(),
  links: z.array(z.object({ link: text, status, reason: text, facts: row })),
})

/** The value in its form, or `argument_invalid` with every place that is wrong. */
export function inForm<T>(form: z.ZodType<T>, value: unknown, what: string): T {
  const parsed = form.safeParse(value)
  if (parsed.success) return parsed.data
  const problems = parsed.error.issues.map(({ path, message }) => `${path.join('.') || what}: ${message}`)
  throw new HoldfastError('argument_invalid', `the ${what} is not in its form: ${problems.join('; ')}`, {
    hint: '/openapi.json describes it',
    detail: { problems },
  })
}

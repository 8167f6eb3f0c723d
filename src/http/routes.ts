import type { z } from 'zod'
import { HoldfastError } from '../base/errors.ts'
import { JsonText } from '../base/json-text.ts'
import type { TimelineEntry } from '../evidence/timeline.ts'
import { formatTimelinePosition, parseTimelinePosition } from '../evidence/timeline-position.ts'
import { evidenceDocument, statusDocument, timelineDocument, transactionDocument } from '../fleet/documents.ts'
import type { Fleet } from '../fleet/fleet-api.ts'
import { exactTypes } from '../postgres/exact-types.ts'
import type { QueryResult } from '../transaction/transaction.ts'
import { formatHlc, parseHlc } from '../hlc/hlc.ts'
import type { AppRequest, AppResponse, AppRoute } from './app-route.ts'
import {
  evidenceAnswer,
  inForm,
  readAnswer,
  readForm,
  timelineAnswer,
  timelineQuery,
  transactionAnswer,
  transactionForm,
  transactionView,
} from './forms.ts'
import { toJson } from './json.ts'

/** A route of the API: what it does, and what OpenAPI says of it. */
export interface ApiRoute extends AppRoute {
  readonly summary: string
  readonly body?: z.ZodType
  readonly query?: z.ZodType
  readonly answer?: z.ZodType
  /** Whether the headers of a session travel with it. */
  readonly session: boolean
}

export const apiRoutes: readonly ApiRoute[] = [
  {
    method: 'POST',
    path: '/v1/transactions',
    summary: 'Runs a batch of statements as one business action, atomically over all shards.',
    body: transactionForm,
    answer: transactionAnswer,
    session: true,
    handle: runTransaction,
  },
  {
    method: 'GET',
    path: '/v1/transactions/{id}',
    summary: 'What became of a transaction.',
    answer: transactionView,
    session: false,
    handle: async ({ fleet, params }) => {
      return answer(transactionDocument(await fleet.transaction(transactionIdOf(params))))
    },
  },
  {
    method: 'GET',
    path: '/v1/transactions/{id}/evidence',
    summary: 'The chain of proofs of a transaction.',
    answer: evidenceAnswer,
    session: false,
    handle: async ({ fleet, params }) => {
      return answer(evidenceDocument(await fleet.prove(transactionIdOf(params))))
    },
  },
  {
    method: 'POST',
    path: '/v1/reads',
    summary: 'Reads where the frontier of the session is proven, or says that it cannot.',
    body: readForm,
    answer: readAnswer,
    session: true,
    handle: runReads,
  },
  {
    method: 'GET',
    path: '/v1/timeline',
    summary: 'The committed history of all shards, in the order of commit timestamps.',
    query: timelineQuery,
    answer: timelineAnswer,
    session: false,
    handle: showTimeline,
  },
  {
    method: 'GET',
    path: '/v1/fleet',
    summary: 'Shards and nodes as this gateway sees them.',
    session: false,
    handle: async ({ fleet }) => {
      return answer(statusDocument(await fleet.status()))
    },
  },
  {
    method: 'GET',
    path: '/v1/tenants',
    summary: 'Tenants, where their domains are placed, and under which policy.',
    session: false,
    handle: async ({ fleet }) => answer({ tenants: await fleet.tenants() }),
  },
]

async function runTransaction(request: AppRequest): Promise<AppResponse> {
  const { statements, events, ...action } = inForm(transactionForm, request.body, 'body')
  const { session, idempotencyKey } = request
  const outcome = await request.fleet.transact(
    { ...action, session, idempotencyKey, request: { statements, events } },
    async (tx) => {
      const results: (Result | null)[] = []
      for (const { domain, text, values, batch, rows } of statements) {
        if (batch) {
          tx.batch(domain, [rows === undefined ? [text, values] : [text, values, { rows }]])
          results.push(null)
          continue
        }
        const result = await tx.client(domain).query({ text, types: exactTypes }, values)
        if (rows !== undefined && rows !== result.rowCount) {
          throw new HoldfastError(
            'transaction_refused',
            `statement ${results.length + 1} affected ${result.rowCount} rows, not ${rows}`,
          )
        }
        results.push(resultOf(result))
      }
      for (const { name, payload } of events) tx.emit(name, payload)
      // A text, since what a key keeps is read as JSON again: numbers would be rounded, and keys change their order.
      return toJson(results)
    },
  )
  const { value, transactionId, commitTimestamp, shards, replayed } = outcome
  // Keys of earlier releases kept the results themselves.
  const results = typeof value === 'string' ? new JsonText(value) : value
  const body = { transactionId, commitTimestamp: formatHlc(commitTimestamp), shards, replayed, results }
  return { status: 200, body, session: outcome.session }
}

async function runReads({ fleet, body, session }: AppRequest): Promise<AppResponse> {
  const { tenant, snapshot, route, queries, ...how } = inForm(readForm, body, 'body')
  const run = async (read: Parameters<Parameters<Fleet['read']>[1]>[0]) => {
    const results: Result[] = []
    for (const { domain, text, values } of queries) {
      results.push(resultOf(await read.client(domain).query({ text, types: exactTypes }, values)))
    }
    return results
  }
  const domains = [...new Set(queries.map(({ domain }) => domain))]
  const given = snapshot
    ? await fleet.snapshot({ tenant, session, domains, route, waitMs: how.waitMs }, run)
    : await fleet.read({ tenant, session, route, ...how }, run)
  return {
    status: 200,
    body: { results: given.value, served: given.served },
    session: given.session,
    served: given.served,
  }
}

async function showTimeline({ fleet, query }: AppRequest): Promise<AppResponse> {
  const { tenant, since, until, after, limit } = inForm(timelineQuery, query, 'query')
  const range = {
    tenant,
    since: since === undefined ? undefined : parseHlc(since),
    until: until === undefined ? undefined : parseHlc(until),
    after: after === undefined ? undefined : parseTimelinePosition(after),
  }
  const entries: TimelineEntry[] = []
  let next: string | null = null
  for await (const entry of fleet.timeline(range)) {
    const last = entries[limit - 1]
    if (last !== undefined) {
      next = formatTimelinePosition(last)
      break
    }
    entries.push(entry)
  }
  return answer({ entries: entries.map(timelineDocument), next })
}

function answer(body: unknown): AppResponse {
  return { status: 200, body }
}

type Result = Pick<QueryResult, 'rows' | 'rowCount'>

function resultOf({ rows, rowCount }: QueryResult): Result {
  return { rows, rowCount }
}

function transactionIdOf(params: AppRequest['params']): string {
  const id = params['id'] ?? ''
  if (/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(id)) return id
  throw new HoldfastError('argument_invalid', `not a transaction id: ${JSON.stringify(id)}`, {
    hint: 'it is a UUID in lower case, as the commit returned it',
  })
}

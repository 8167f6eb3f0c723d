import type { AppRequest, AppResponse, AppRoute, TimelineEntry } from 'holdfast'
import { formatHlc, formatTimelinePosition, HoldfastError, parseHlc, parseTimelinePosition } from 'holdfast'
import { approveRun, readRun } from './payledger.ts'

/** PayLedger's own routes; `holdfast up` serves them beside its API. */
export const routes: readonly AppRoute[] = [
  { method: 'POST', path: '/payledger/{tenant}/runs/{id}/approve', handle: approve },
  { method: 'GET', path: '/payledger/{tenant}/runs/{id}', handle: showRun },
  { method: 'GET', path: '/payledger/finance/timeline', session: false, handle: showTimeline },
]

async function approve(request: AppRequest): Promise<AppResponse> {
  const { fleet, params, session, idempotencyKey } = request
  const outcome = await approveRun(fleet, {
    tenant: parameter(params, 'tenant'),
    run: parameter(params, 'id'),
    actor: actorOf(request.body),
    idempotencyKey,
    session,
  })
  return {
    status: 200,
    body: {
      run: outcome.value.run,
      status: 'approved',
      totalCents: outcome.value.totalCents,
      transactionId: outcome.transactionId,
      commitTimestamp: formatHlc(outcome.commitTimestamp),
      replayed: outcome.replayed,
    },
    session: outcome.session,
  }
}

async function showRun({ fleet, params, query, session }: AppRequest): Promise<AppResponse> {
  const tenant = parameter(params, 'tenant')
  const id = parameter(params, 'id')
  const answer = await readRun(fleet, {
    tenant,
    run: id,
    session,
    waitMs: wholeOf('waitMs', query['waitMs'], 0, 10_000),
  })
  const { session: next, served, run } = answer
  if (run === null) {
    const missing = new HoldfastError('unknown_subject', `tenant ${tenant} has no run ${id}`, {
      detail: { tenant, run: id },
    })
    return { status: 404, body: missing, session: next, served }
  }
  return { status: 200, body: run, session: next, served }
}

const entriesMax = 1_000

/**
 * Who did what to which run, over all tenants, in one order. Amounts and people stay at home. A page that is not the last gives in
 * `next` what the one behind it takes as `after`.
 */
async function showTimeline({ fleet, query }: AppRequest): Promise<AppResponse> {
  const { since, until, tenant, after } = query
  const limit = wholeOf('limit', query['limit'], 1, entriesMax) ?? entriesMax
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
  const told = entries.map((entry) => ({ ...entry, commitTimestamp: formatHlc(entry.commitTimestamp) }))
  return { status: 200, body: { entries: told, more: next !== null, next } }
}

function parameter(params: AppRequest['params'], name: string): string {
  const value = params[name]
  if (value === undefined) throw new Error(`the path has no part ${name}`)
  return value
}

function actorOf(body: unknown): string {
  if (
    typeof body === 'object' &&
    body !== null &&
    'actor' in body &&
    typeof body.actor === 'string' &&
    body.actor !== ''
  ) {
    return body.actor
  }
  throw new HoldfastError('argument_invalid', 'the body names no actor', {
    hint: 'send {"actor": "manager@globex.example"}',
  })
}

function wholeOf(name: string, text: string | undefined, min: number, max: number): number | undefined {
  if (text === undefined) return undefined
  const value = Number(text)
  if (Number.isInteger(value) && value >= min && value <= max) return value
  throw new HoldfastError('argument_invalid', `${name} is not ${JSON.stringify(text)}`, {
    hint: `write a whole number from ${min} to ${max}`,
  })
}

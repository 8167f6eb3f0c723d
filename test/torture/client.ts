import { approveRun } from '../../examples/payledger/payledger.ts'
import type { ErrorCode } from '../../src/base/errors.ts'
import { errorTable, HoldfastError, isHoldfastError } from '../../src/base/errors.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import type { Row } from '../../src/postgres/statement.ts'
import { formatHlc } from '../../src/hlc/hlc.ts'
import type { TransactRequest } from '../../src/fleet/transact-api.ts'
import { transactionForm } from '../../src/http/forms.ts'
import { toJson } from '../../src/http/json.ts'
import type { ReadLevel } from '../../src/reading/reading.ts'
import { callHttp, NotReached } from './http-call.ts'
import type { Domain } from './stand.ts'

/** What workloads talk to: a gateway of this process, or one of another over HTTP. */
export interface Client {
  /** Which gateway it is. */
  readonly name: string
  /** The domain whose home is nearest to it. */
  readonly near: Domain
  /** What it takes the time from. */
  readonly clock: GatewayClock
  /** All statements, as one business action. Rejects with `NotAcknowledged`. */
  transact(request: TransactRequest, statements: readonly Statement[]): Promise<Committed>
  /** Rejects with what the gateway refuses it with, or because there was no answer. */
  read(request: ReadAsked, queries: readonly Query[]): Promise<Seen>
  /** PayLedger's approval. Rejects with `NotAcknowledged`. */
  approve(click: Click): Promise<Pick<Committed, 'transactionId' | 'replayed'>>
  /** `none` only where every shard was asked and has no trace. Rejects when it cannot be told. */
  outcome(transactionId: string): Promise<string>
}

export interface Query {
  readonly domain: string
  readonly text: string
  readonly values?: readonly unknown[]
}

export interface Statement extends Query {
  /** Nobody waits for it: it travels with the prepare. */
  readonly batch?: true
  /** How many rows it must affect. */
  readonly rows?: number
}

export interface ReadAsked {
  readonly tenant: string
  /** A token, or several with commas between them. */
  readonly session?: string | undefined
  readonly level: ReadLevel | 'snapshot'
  /** Of a `stale` read. */
  readonly maxStaleMs?: number
}

export interface GatewayClock {
  wallMs(): number
  /** How often it has jumped: what was told by it before says nothing then. */
  jumps(): number
}

export interface Click {
  readonly tenant: string
  readonly run: string
  readonly actor: string
  readonly idempotencyKey: string
}

export interface Committed {
  readonly transactionId: string
  /** In text form, which sorts as the timestamps do. */
  readonly commitTimestamp: string
  readonly session: string
  readonly replayed: boolean
  /** The rows of each statement; none of a batched one. */
  readonly rows: readonly (readonly Row[])[]
}

export interface Seen {
  readonly session: string
  readonly rows: readonly (readonly Row[])[]
  /** The nodes that answered. */
  readonly nodes: readonly string[]
}

/** A transaction that nobody acknowledged: refused, or nobody knows. */
export class NotAcknowledged extends Error {
  readonly told: 'failed' | 'unknown'
  /** As far as it is known: what to ask with. */
  readonly transactionId: string | undefined
  readonly code: ErrorCode | undefined

  constructor(cause: unknown, transactionId: string | undefined) {
    super('the transaction was not acknowledged', { cause })
    this.told = toldBy(cause)
    const known = isHoldfastError(cause) ? cause.detail['transactionId'] : undefined
    this.transactionId = transactionId ?? (typeof known === 'string' ? known : undefined)
    this.code = isHoldfastError(cause) ? cause.code : undefined
  }
}

/** A refusal is definite, and so is a door that nobody opened; an ambiguous outcome, and whatever is not ours, is unknown. */
function toldBy(cause: unknown): 'failed' | 'unknown' {
  if (cause instanceof NotReached) return 'failed'
  return isHoldfastError(cause) && cause.category !== 'ambiguous' && cause.category !== 'internal'
    ? 'failed'
    : 'unknown'
}

export function gatewayClient(gateway: Gateway, { near, clock }: Pick<Client, 'near' | 'clock'>): Client {
  return {
    name: gateway.parts.region,
    near,
    clock,
    transact: async (request, statements) => {
      let id: string | undefined
      const run: Parameters<typeof gateway.transact<string>>[1] = async (tx) => {
        id = tx.transactionId
        const results: Results[number][] = []
        for (const one of statements) {
          if (one.batch === true) {
            const { text, values = [], rows: count } = one
            tx.batch(one.domain, [count === undefined ? [text, values] : [text, values, { rows: count }]])
            results.push(null)
          } else {
            results.push({ rows: (await tx.query<Row>(one.domain, one.text, one.values)).rows })
          }
        }
        return toJson(results)
      }
      // What a key stands for is the same over HTTP, and so is what it gives: either may be sent what the other was.
      const asked = { statements: transactionForm.shape.statements.parse(statements), events: [] }
      const { value, commitTimestamp, ...rest } = await gateway
        .transact({ ...request, request: asked }, run)
        .catch((error: unknown) => Promise.reject(new NotAcknowledged(error, id)))
      return { ...rest, rows: rowsOf(JSON.parse(value) as Results), commitTimestamp: formatHlc(commitTimestamp) }
    },
    read: async ({ tenant, session, level, maxStaleMs }, queries) => {
      const run = async (read: {
        query<R>(domain: string, text: string, values?: readonly unknown[]): Promise<{ rows: R[] }>
      }) =>
        Promise.all(queries.map(async ({ domain, text, values }) => (await read.query<Row>(domain, text, values)).rows))
      const domains = [...new Set(queries.map(({ domain }) => domain))]
      const answer =
        level === 'snapshot'
          ? await gateway.snapshot({ tenant, session, domains }, run)
          : await gateway.read({ tenant, session, level, maxStaleMs }, run)
      return { session: answer.session, rows: answer.value, nodes: answer.served.map(({ node }) => node) }
    },
    approve: async (click) => {
      const { transactionId, replayed } = await approveRun(gateway, click).catch((error: unknown) =>
        Promise.reject(new NotAcknowledged(error, undefined)),
      )
      return { transactionId, replayed }
    },
    outcome: async (transactionId) => {
      try {
        return (await gateway.transaction(transactionId)).outcome
      } catch (error) {
        if (isHoldfastError(error, 'unknown_transaction')) return 'none'
        throw error
      }
    },
  }
}

/** One a statement; null for a batched one. */
type Results = readonly ({ readonly rows: readonly Row[] } | null)[]

const rowsOf = (results: Results) => results.map((one) => one?.rows ?? [])

interface TransactionBody {
  readonly transactionId: string
  readonly commitTimestamp: string
  readonly replayed: boolean
  readonly results: Results
}

interface ReadBody {
  readonly results: readonly { readonly rows: readonly Row[] }[]
  readonly served: readonly { readonly node: string }[]
}

/** `urlOf` is asked each time: a gateway that was begun again listens elsewhere. */
export function httpClient(name: string, near: Domain, urlOf: () => string): Client {
  const call = async (path: string, body?: object, session?: string, key?: string) => {
    const answer = await callHttp(new URL(path, urlOf()), body, {
      ...(session === undefined ? {} : { 'holdfast-session': session }),
      ...(key === undefined ? {} : { 'idempotency-key': key }),
    })
    if (!answer.ok) throw problemError(answer.body)
    return answer
  }
  const unacknowledged = (error: unknown) => Promise.reject(new NotAcknowledged(error, undefined))
  return {
    name,
    near,
    clock: unset,
    transact: async ({ session, idempotencyKey, ...request }, statements) => {
      const answer = await call('/v1/transactions', { ...request, statements }, session, idempotencyKey).catch(
        unacknowledged,
      )
      const { results, ...body } = answer.body as TransactionBody
      return { ...body, session: answer.session, rows: rowsOf(results) }
    },
    read: async ({ tenant, session, level, maxStaleMs }, queries) => {
      const how = level === 'snapshot' ? { snapshot: true } : { level, maxStaleMs }
      const answer = await call('/v1/reads', { tenant, ...how, queries }, session)
      const { results, served } = answer.body as ReadBody
      return { session: answer.session, rows: results.map(({ rows }) => rows), nodes: served.map(({ node }) => node) }
    },
    approve: async ({ tenant, run, actor, idempotencyKey }) => {
      const path = `/payledger/${tenant}/runs/${run}/approve`
      const answer = await call(path, { actor }, undefined, idempotencyKey).catch(unacknowledged)
      const { transactionId, replayed } = answer.body as TransactionBody
      return { transactionId, replayed }
    },
    outcome: async (transactionId) => {
      try {
        return ((await call(`/v1/transactions/${transactionId}`)).body as { readonly outcome: string }).outcome
      } catch (error) {
        if (isHoldfastError(error, 'unknown_transaction')) return 'none'
        throw error
      }
    },
  }
}

/** Nobody sets the clock of a process of its own. */
const unset: GatewayClock = { wallMs: () => Date.now(), jumps: () => 0 }

/** A problem document as the error that it was; what is none is an answer that nobody can read. */
function problemError(body: unknown): Error {
  const { code, detail, context } = body as { code?: string; detail?: string; context?: Record<string, unknown> }
  if (code === undefined || !(code in errorTable)) return new Error(`not a problem document: ${JSON.stringify(body)}`)
  return new HoldfastError(code as ErrorCode, detail ?? '', { detail: context ?? {} })
}

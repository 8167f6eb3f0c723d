import type { GatewayProcess } from '../support/gateway-process.ts'
import { home, participant, tenant } from './stand.ts'
import type { Told } from './table.ts'

/** The business action of a cell: a row with its name at home and, when it is global, at the participant; or a look at all there. */
export interface Request {
  readonly name: string
  readonly isGlobal: boolean
  readonly reads: boolean
  readonly body: unknown
}

export type RequestKind = 'local' | 'global' | 'reading'

export interface Answer {
  readonly kind: Told
  readonly transactionId: string | null
  readonly code: string | null
  readonly replayed: boolean
  /** The names that it read at the participant; null when it read nothing, or nobody was told. */
  readonly read: readonly string[] | null
}

export function requestOf(kind: RequestKind, name: string): Request {
  const mark = ({ domain }: { readonly domain: string }) => ({
    domain,
    text: `insert into ${domain}_marks (tenant, name) values ($1, $2)`,
    values: [tenant, name],
  })
  const look = { domain: participant.domain, text: `select name from ${participant.domain}_marks` }
  const there = { local: [], global: [{ ...mark(participant), batch: true }], reading: [look] }[kind]
  const statements = [mark(home), ...there]
  const body = { tenant, action: 'crash.mark', subject: name, actor: 'harness', statements }
  return { name, isGlobal: kind === 'global', reads: kind === 'reading', body }
}

/** Sends it with its name as its key. Never rejects: a connection that is lost tells nothing. */
export async function sendRequest(
  gateway: GatewayProcess,
  { name, body, reads }: Request,
  signal?: AbortSignal,
): Promise<Answer> {
  try {
    const response = await gateway.post('/v1/transactions', body, { 'idempotency-key': name }, signal)
    const answer = (await response.json()) as {
      transactionId?: string
      replayed?: boolean
      results?: ({ rows: { name: string }[] } | null)[]
      code?: string
      context?: { transactionId?: string }
    }
    const looked = reads ? answer.results?.at(-1)?.rows.map((row) => row.name) : undefined
    if (response.ok) return told('committed', answer.transactionId, undefined, answer.replayed, looked)
    const kind = answer.code === 'outcome_ambiguous' ? 'unknown' : 'failed'
    return told(kind, answer.context?.transactionId, answer.code)
  } catch {
    return told('nothing')
  }
}

function told(
  kind: Told,
  transactionId?: string,
  code?: string,
  replayed = false,
  read: readonly string[] | null = null,
): Answer {
  return { kind, transactionId: transactionId ?? null, code: code ?? null, replayed, read }
}

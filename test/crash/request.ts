import type { GatewayProcess } from '../support/gateway-process.ts'
import { home, participant, tenant } from './stand.ts'
import type { Told } from './table.ts'

/** The business action of a cell: a row with its name at home and, when it is global, at the participant. */
export interface Request {
  readonly name: string
  readonly isGlobal: boolean
  readonly body: unknown
}

export interface Answer {
  readonly kind: Told
  readonly transactionId: string | null
  readonly code: string | null
  readonly replayed: boolean
}

export function requestOf(kind: 'local' | 'global', name: string): Request {
  const mark = ({ domain }: { readonly domain: string }) => ({
    domain,
    text: `insert into ${domain}_marks (tenant, name) values ($1, $2)`,
    values: [tenant, name],
  })
  const isGlobal = kind === 'global'
  const statements = [mark(home), ...(isGlobal ? [{ ...mark(participant), batch: true }] : [])]
  return { name, isGlobal, body: { tenant, action: 'crash.mark', subject: name, actor: 'harness', statements } }
}

/** Sends it with its name as its key. Never rejects: a connection that is lost tells nothing. */
export async function sendRequest(
  gateway: GatewayProcess,
  { name, body }: Request,
  signal?: AbortSignal,
): Promise<Answer> {
  try {
    const response = await gateway.post('/v1/transactions', body, { 'idempotency-key': name }, signal)
    const answer = (await response.json()) as {
      transactionId?: string
      replayed?: boolean
      code?: string
      context?: { transactionId?: string }
    }
    if (response.ok) return told('committed', answer.transactionId, undefined, answer.replayed)
    const kind = answer.code === 'outcome_ambiguous' ? 'unknown' : 'failed'
    return told(kind, answer.context?.transactionId, answer.code)
  } catch {
    return told('nothing')
  }
}

function told(kind: Told, transactionId?: string, code?: string, replayed = false): Answer {
  return { kind, transactionId: transactionId ?? null, code: code ?? null, replayed }
}

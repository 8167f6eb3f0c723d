import { createHash } from 'node:crypto'
import { z } from 'zod'

export type DeliveryState = 'sending' | 'delivered' | 'failed'

/** What became of one event at one attempt. In a journal it is a line of JSON with a checksum. */
export interface DeliveryRecord {
  readonly eventId: string
  readonly transactionId: string
  /** The `int8` in decimal. */
  readonly commitTimestamp: string
  readonly tenant: string
  readonly name: string
  readonly state: DeliveryState
  /** Wall time in milliseconds. */
  readonly at: number
  /** Why it failed. */
  readonly reason: string | null
}

const lineForm = z.object({
  eventId: z.string(),
  transactionId: z.string(),
  commitTimestamp: z.string(),
  tenant: z.string(),
  name: z.string(),
  state: z.enum(['sending', 'delivered', 'failed']),
  at: z.number(),
  reason: z.string().nullable(),
  sum: z.string(),
})

export function encodeDelivery(record: DeliveryRecord): string {
  const { eventId, transactionId, commitTimestamp, tenant, name, state, at, reason } = record
  const body = { eventId, transactionId, commitTimestamp, tenant, name, state, at, reason }
  return JSON.stringify({ ...body, sum: checksum(JSON.stringify(body)) })
}

/** The record of a line, `torn` for the beginning of one, `corrupt` for a whole one that is not what was written. */
export function decodeDelivery(line: string): DeliveryRecord | 'torn' | 'corrupt' {
  // Quotes inside strings are escaped, so nothing but the end of a whole line looks like this.
  if (!/"sum":"[0-9a-f]{32}"\}$/.test(line)) return 'torn'
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    return 'corrupt'
  }
  const parsed = lineForm.safeParse(value)
  if (!parsed.success) return 'corrupt'
  const { sum: _, ...record } = parsed.data
  return encodeDelivery(record) === line ? record : 'corrupt'
}

function checksum(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 32)
}

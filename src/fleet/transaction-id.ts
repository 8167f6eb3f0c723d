import { HoldfastError } from '../base/errors.ts'
import type { TransactionId } from '../directory/topology.ts'

const form = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

/** A transaction id from outside. Throws `argument_invalid`. */
export function parseTransactionId(text: string): TransactionId {
  const id = text.toLowerCase()
  if (form.test(id)) return id as TransactionId
  throw new HoldfastError('argument_invalid', `not a transaction id: ${JSON.stringify(text)}`, {
    hint: 'it is a UUID, as transact and the timeline give it',
  })
}

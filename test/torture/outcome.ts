import { isHoldfastError } from '../../src/base/errors.ts'
import type { Client } from './client.ts'
import { NotAcknowledged } from './client.ts'
import type { Telling } from '../sim/tellings.ts'

/** How an operation ended for its client. A read that was refused, or not answered, has failed: nothing hangs on it. */
export function outcomeOf(error: unknown): 'failed' | 'unknown' {
  if (error instanceof NotAcknowledged) return error.told
  return isHoldfastError(error) ? 'failed' : 'unknown'
}

/** What clients were told of the transactions that have an id, and what each is when it is asked for twice at the end. */
export class Tellings {
  readonly #told: Pick<Telling, 'transactionId' | 'told'>[] = []

  acknowledged(transactionId: string): void {
    this.#told.push({ transactionId, told: 'committed' })
  }

  notAcknowledged(error: unknown): void {
    if (!(error instanceof NotAcknowledged) || error.transactionId === undefined) return
    this.#told.push({ transactionId: error.transactionId, told: error.told })
  }

  async ask(at: Client): Promise<Telling[]> {
    const tellings: Telling[] = []
    for (const { transactionId, told } of this.#told) {
      const asked = [await at.outcome(transactionId)]
      // Once is enough where the answer was known; what nobody could tell must be told the same way ever after.
      if (told === 'unknown') asked.push(await at.outcome(transactionId))
      tellings.push({ transactionId, told, asked })
    }
    return tellings
  }
}

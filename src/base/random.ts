import { randomBytes as cryptoRandomBytes, randomInt, randomUUID } from 'node:crypto'
import { V7Generator } from 'uuidv7'

/** Randomness enters the system here and nowhere else. */

class TimeOrdered extends V7Generator {
  constructor() {
    super()
    // Ids of a wall that stepped back by less go on in order. By more they follow it: a shard takes none from the future.
    this.setRollbackAllowance(250)
  }
}

const timeOrdered = new TimeOrdered()

/** A version 7 UUID (RFC 9562): the first 48 bits are milliseconds since the epoch, so ids sort by birth. */
export function newTimeOrderedUuid(): string {
  return timeOrdered.generate().toString()
}

/** A version 4 UUID, for ids that must say nothing about when they were made. */
export function newRandomUuid(): string {
  return randomUUID()
}

export function randomBytes(count: number): Uint8Array {
  return cryptoRandomBytes(count)
}

/** An integer in [0, `bound`). */
export function randomBelow(bound: number): number {
  return randomInt(bound)
}

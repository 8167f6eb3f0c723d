import { randomBytes as cryptoRandomBytes, randomInt, randomUUID } from 'node:crypto'
import { uuidv7 } from 'uuidv7'

/** Randomness enters the system here and nowhere else. */

/** A version 7 UUID (RFC 9562): the first 48 bits are milliseconds since the epoch, so ids sort by birth. */
export function newTimeOrderedUuid(): string {
  return uuidv7()
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

import { assert } from '../base/assert.ts'
import type { Brand } from '../base/brand.ts'
import { HoldfastError } from '../base/errors.ts'

/**
 * Hybrid logical clock timestamps (Kulkarni et al., "Logical Physical Clocks", 2014).
 *
 * One timestamp is one `int8`: 48 bits of milliseconds since the epoch above 16 bits of logical counter, so
 * that numeric order is timestamp order and a PostgreSQL sequence can be the clock of a shard. The counter
 * overflows into the milliseconds, which only runs the clock ahead, never back.
 *
 * Values pass 2^53: they are `bigint` in memory, and strings in JSON. The text form is
 * `2026-04-02T10:00:05.120Z+0003`: the wall part in ISO 8601, the counter in four hexadecimal digits. The sign
 * bit of `int8` ends the range in the year 6429, so that text order equals numeric order throughout.
 *
 * Two shards may issue the same timestamp; such ties break on the transaction id.
 */
export type Hlc = Brand<bigint, 'Hlc'>

/** How many timestamps share one millisecond. */
export const ticksPerMs = 0x1_0000n

/** The last millisecond that fits above the counter of a non-negative `int8`. */
export const wallMsMax = 2 ** 47 - 1

export const hlcZero = 0n as Hlc

/** A timestamp from its `int8` value. */
export function toHlc(value: bigint): Hlc {
  assert(value >= 0n && value <= 0x7fff_ffff_ffff_ffffn, () => `an HLC is a non-negative int8, not ${value}`)
  return value as Hlc
}

/** The first timestamp of a millisecond. */
export function hlcFromWallMs(wallMs: number): Hlc {
  return toHlc(BigInt(Math.trunc(wallMs)) * ticksPerMs)
}

/** The milliseconds since the epoch of a timestamp. */
export function wallMsOfHlc(hlc: Hlc): number {
  return Number(hlc / ticksPerMs)
}

export function maxHlc(a: Hlc, b: Hlc): Hlc {
  return a >= b ? a : b
}

/** `2026-04-02T10:00:05.120Z+0003`. */
export function formatHlc(hlc: Hlc): string {
  const counter = (hlc % ticksPerMs).toString(16).padStart(4, '0')
  return `${new Date(wallMsOfHlc(hlc)).toISOString()}+${counter}`
}

const textForm = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)\+([0-9a-f]{4})$/

/** The timestamp of a text form, or of a decimal `int8`. Throws `argument_invalid` on anything else. */
export function parseHlc(text: string): Hlc {
  if (/^\d{1,19}$/.test(text)) {
    const value = BigInt(text)
    if (value <= 0x7fff_ffff_ffff_ffffn) return toHlc(value)
  }
  const match = textForm.exec(text)
  const wallMs = match?.[1] === undefined ? Number.NaN : Date.parse(match[1])
  const isDate = !Number.isNaN(wallMs) && new Date(wallMs).toISOString() === match?.[1]
  if (match?.[2] === undefined || !isDate || wallMs < 0 || wallMs > wallMsMax) {
    throw new HoldfastError('argument_invalid', `not an HLC timestamp: ${JSON.stringify(text)}`, {
      hint: 'write it as 2026-04-02T10:00:05.120Z+0003 or as a decimal number',
    })
  }
  return toHlc(BigInt(wallMs) * ticksPerMs + BigInt(Number.parseInt(match[2], 16)))
}

/** Order of transactions across shards: by commit timestamp, ties by transaction id. */
export function compareCommits(
  a: { readonly commitTimestamp: Hlc; readonly transactionId: string },
  b: { readonly commitTimestamp: Hlc; readonly transactionId: string },
): number {
  if (a.commitTimestamp !== b.commitTimestamp) return a.commitTimestamp < b.commitTimestamp ? -1 : 1
  if (a.transactionId === b.transactionId) return 0
  return a.transactionId < b.transactionId ? -1 : 1
}

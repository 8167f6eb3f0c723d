import { assert } from '../base/assert.ts'
import type { Brand } from '../base/brand.ts'

/** A position in the write-ahead log of one server history, in bytes (PostgreSQL, "pg_lsn Type"). */
export type Lsn = Brand<bigint, 'Lsn'>

export const lsnZero = 0n as Lsn

export function toLsn(value: bigint): Lsn {
  assert(value >= 0n && value <= 0xffff_ffff_ffff_ffffn, () => `an LSN is an unsigned 64-bit number, not ${value}`)
  return value as Lsn
}

/** The position of PostgreSQL's text form, e.g. `16/B374D848`. */
export function parseLsn(text: string): Lsn {
  const match = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/.exec(text)
  assert(match?.[1] !== undefined && match[2] !== undefined, () => `not an LSN: ${JSON.stringify(text)}`)
  return toLsn((BigInt(`0x${match[1]}`) << 32n) | BigInt(`0x${match[2]}`))
}

/** PostgreSQL's text form, e.g. `16/B374D848`. */
export function formatLsn(lsn: Lsn): string {
  return `${(lsn >> 32n).toString(16).toUpperCase()}/${(lsn & 0xffff_ffffn).toString(16).toUpperCase()}`
}

export function maxLsn(a: Lsn, b: Lsn): Lsn {
  return a >= b ? a : b
}

export function minLsn(a: Lsn, b: Lsn): Lsn {
  return a <= b ? a : b
}

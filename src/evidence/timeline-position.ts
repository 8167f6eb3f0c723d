import { HoldfastError } from '../base/errors.ts'
import { toHlc } from '../hlc/hlc.ts'
import type { TimelinePosition } from './timeline.ts'

/**
 * A place in the merged history, as text: where one page ended, for the next to begin behind it. A timestamp would not do,
 * since any number of entries may have the same one.
 */

/** Opaque to whoever gets it, and good for as long as the history that it points into. */
export function formatTimelinePosition({ commitTimestamp, attributed, name }: TimelinePosition): string {
  return Buffer.from(`${commitTimestamp} ${attributed ? 'stamped' : 'unattributed'} ${name}`).toString('base64url')
}

const form =
  /^(\d{1,19}) (?:(stamped) ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})|unattributed (.+@[0-9A-F]{1,8}\/[0-9A-F]{1,8}))$/

/** Of an `int8`. */
const timestampMax = 0x7fff_ffff_ffff_ffffn

/** Throws `argument_invalid` (never). */
export function parseTimelinePosition(text: string): TimelinePosition {
  const [, timestamp, stamped, id, place] = form.exec(Buffer.from(text, 'base64url').toString()) ?? []
  const name = id ?? place
  if (timestamp === undefined || name === undefined || BigInt(timestamp) > timestampMax) {
    throw new HoldfastError('argument_invalid', `not a position in the timeline: ${JSON.stringify(text)}`, {
      hint: 'send what a page of it gave as `next`',
    })
  }
  return { commitTimestamp: toHlc(BigInt(timestamp)), attributed: stamped !== undefined, name }
}

import { expect, test } from 'vitest'
import { toHlc } from '../hlc/hlc.ts'
import { formatTimelinePosition, parseTimelinePosition } from './timeline-position.ts'

const commitTimestamp = toHlc(0x7fff_ffff_ffff_ffffn)

test.each([
  [true, '0196abcd-0000-7000-8000-000000000000'],
  [false, 'us-east/treasury@1/FFFFFF0'],
])('a position survives its text', (attributed, name) => {
  const position = { commitTimestamp, attributed, name }
  expect(parseTimelinePosition(formatTimelinePosition(position))).toEqual(position)
})

test.each([
  '',
  'yesterday',
  ...['1 stamped x', '9223372036854775808 unattributed a@0/1', '1 unattributed a@0/G'].map(encode),
])('what is none is refused: %s', (text) => {
  expect(() => parseTimelinePosition(text)).toThrow(expect.objectContaining({ code: 'argument_invalid' }))
})

function encode(text: string): string {
  return Buffer.from(text).toString('base64url')
}

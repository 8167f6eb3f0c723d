import fc from 'fast-check'
import { expect, test } from 'vitest'
import { compareCommits, formatHlc, hlcFromWallMs, parseHlc, toHlc, wallMsMax, wallMsOfHlc } from './hlc.ts'

const wallMs = fc.integer({ min: 0, max: wallMsMax })
const counter = fc.integer({ min: 0, max: 0xffff })
const hlc = fc.tuple(wallMs, counter).map(([ms, count]) => toHlc(hlcFromWallMs(ms) + BigInt(count)))

test('text form and value are the same timestamp', () => {
  fc.assert(fc.property(hlc, (value) => parseHlc(formatHlc(value)) === value && parseHlc(String(value)) === value))
})

test('text order equals numeric order', () => {
  fc.assert(fc.property(hlc, hlc, (a, b) => a < b === formatHlc(a) < formatHlc(b)))
})

test('the wall part survives', () => {
  fc.assert(fc.property(wallMs, (ms) => wallMsOfHlc(hlcFromWallMs(ms)) === ms))
})

test('the example of the reference', () => {
  expect(formatHlc(toHlc(BigInt(Date.UTC(2026, 3, 2, 10, 0, 5, 120)) * 0x10000n + 3n))).toBe(
    '2026-04-02T10:00:05.120Z+0003',
  )
})

test.each([
  '',
  'now',
  '2026-04-02',
  '2026-13-02T10:00:05.120Z+0003',
  '2026-02-31T10:00:05.120Z+0003',
  '9999-01-01T10:00:05.120Z+0003',
  '99999999999999999999',
  '-1',
])('refuses %j', (text) => {
  expect(() => parseHlc(text)).toThrowError(/not an HLC timestamp/)
})

test('ties break on the transaction id', () => {
  const at = (commitTimestamp: bigint, transactionId: string) => ({
    commitTimestamp: toHlc(commitTimestamp),
    transactionId,
  })
  expect(compareCommits(at(1n, 'b'), at(2n, 'a'))).toBe(-1)
  expect(compareCommits(at(2n, 'a'), at(2n, 'b'))).toBe(-1)
  expect(compareCommits(at(2n, 'b'), at(2n, 'b'))).toBe(0)
})

import { createHmac } from 'node:crypto'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { macKey, macOf } from './mac.ts'

test('is the HMAC of Node, for every key, beginning and rest, whatever came before', () => {
  const bytes = (maxLength: number) => fc.uint8Array({ maxLength })
  fc.assert(
    fc.property(bytes(200), bytes(200), bytes(1_000), fc.nat(1_000), (secret, beginning, rest, first) => {
      const expected = createHmac('sha256', secret).update(beginning).update(rest).digest()
      const key = macKey(secret, beginning)
      macOf(key, Buffer.alloc(first), 0, first)
      const among = Buffer.concat([Buffer.alloc(3), rest, Buffer.alloc(5)])
      expect(Buffer.from(macOf(key, among, 3, 3 + rest.length), 'latin1')).toEqual(expected)
    }),
  )
})

// RFC 4231, test cases 1, 2 and 6: a short key, a text key, and one that is longer than a block.
test.each([
  ['0b'.repeat(20), '4869205468657265', 'b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7'],
  [
    '4a656665',
    '7768617420646f2079612077616e7420666f72206e6f7468696e673f',
    '5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843',
  ],
  [
    'aa'.repeat(131),
    '54657374205573696e67204c6172676572205468616e20426c6f636b2d53697a65204b6579202d2048617368204b6579204669727374',
    '60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54',
  ],
])('key %s', (secret, text, mac) => {
  const [key, message] = [Buffer.from(secret, 'hex'), Buffer.from(text, 'hex')]
  const made = macOf(macKey(key, message.subarray(0, 3)), message, 3, message.length)
  expect(Buffer.from(made, 'latin1').toString('hex')).toBe(mac)
})

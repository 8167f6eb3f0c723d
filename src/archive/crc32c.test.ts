import { expect, test } from 'vitest'
import { crc32c } from './crc32c.ts'

test('CRC-32C has the values of RFC 3720, appendix B.4', () => {
  expect(crc32c(Buffer.alloc(32))).toBe(0x8a91_36aa)
  expect(crc32c(Buffer.alloc(32, 0xff))).toBe(0x62a8_ab43)
  expect(crc32c(Buffer.from(Array.from({ length: 32 }, (_, index) => index)))).toBe(0x46dd_794e)
  expect(crc32c(Buffer.from('123456789'))).toBe(0xe306_9283)
})

test('a checksum goes on from part to part', () => {
  const bytes = Buffer.from('the quick brown fox')
  expect(crc32c(bytes.subarray(7), crc32c(bytes.subarray(0, 7)))).toBe(crc32c(bytes))
})

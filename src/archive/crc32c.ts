/** CRC-32C (Castagnoli), the checksum of PostgreSQL's WAL records (RFC 3720, appendix B.4). */

const table = makeTable()

/** Continues from an earlier value; starts anew from 0. */
export function crc32c(bytes: Uint8Array, crc = 0): number {
  let value = ~crc
  for (const byte of bytes) value = (table[(value ^ byte) & 0xff] ?? 0) ^ (value >>> 8)
  return ~value >>> 0
}

function makeTable(): Int32Array {
  const entries = new Int32Array(256)
  for (let index = 0; index < 256; index++) {
    let value = index
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f6_3b78 : value >>> 1
    entries[index] = value
  }
  return entries
}
